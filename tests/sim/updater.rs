//! Object 5, or 9, of a scripted device, which takes packages and does with them what the test wants.

use lwm2mqtt::coap::{Code, Request, Response};
use serde_json::Value as Json;

use crate::rig::content;

/// The object and what it will do.
pub struct Updater {
    /// /5/0/3
    pub state: i64,
    /// /5/0/5
    pub result: i64,
    /// What was written to /5/0/0 last, but for what resets it.
    pub package: Vec<u8>,
    /// What was written to /5/0/1 last.
    pub uri: String,
    /// /5/0/9
    pub delivery: i64,
    /// /5/0/8
    pub protocols: Vec<i64>,
    /// What the check of a package comes to, if not to Downloaded.
    pub refuses: Option<i64>,
    /// What the device does when it is told to install.
    pub update: Update,
    /// How often it was reset.
    pub resets: u32,
    /// How often it was told to install.
    pub updates: u32,
    /// What it has beside that, if it is object 9.
    pub software: Option<Software>,
}

/// What object 9 has beside that.
#[derive(Default)]
pub struct Software {
    /// The arguments of each Uninstall.
    pub uninstalls: Vec<String>,
    /// Whether what is installed was activated.
    pub active: bool,
}

/// What comes of Update.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// State Updating, and the test goes on from there.
    Begins,
    /// This state and this result at once.
    Ends(i64, i64),
    /// 4.05
    Refused,
}

impl Default for Updater {
    fn default() -> Self {
        Self {
            state: 0,
            result: 0,
            package: Vec::new(),
            uri: String::new(),
            delivery: 2,
            protocols: Vec::new(),
            refuses: None,
            update: Update::Begins,
            resets: 0,
            updates: 0,
            software: None,
        }
    }
}

/// Installed, of object 9.
const INSTALLED: i64 = 4;

impl Updater {
    /// The instance /9/0 with software that is installed and active.
    pub fn software() -> Self {
        let software = Software {
            active: true,
            ..Software::default()
        };
        Self {
            state: INSTALLED,
            result: 2,
            software: Some(software),
            ..Self::default()
        }
    }

    /// Answers what is about the object.
    pub fn on_request(&mut self, request: &Request) -> Option<Response> {
        if self.software.is_some() {
            return self.on_software(request);
        }
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        let changed = Response::new(Code::CHANGED);
        Some(match (request.method, path.as_slice()) {
            (Code::GET, ["5", "0"]) => content(110, &self.senml()),
            (Code::PUT | Code::POST, ["5", "0", "0" | "1"]) if self.state == 3 => {
                Response::new(Code::METHOD_NOT_ALLOWED)
            }
            (Code::PUT, ["5", "0", "0"]) if request.payload == [0] => {
                self.reset();
                changed
            }
            (Code::PUT, ["5", "0", "0"]) => {
                self.package.clone_from(&request.payload);
                (self.state, self.result) = match self.refuses {
                    None => (2, 0),
                    Some(result) => (0, result),
                };
                changed
            }
            (Code::PUT, ["5", "0", "1"]) => {
                let text = text(request);
                self.reset();
                if !text.is_empty() {
                    self.resets -= 1;
                    self.state = 1;
                }
                self.uri = text;
                changed
            }
            (Code::POST, ["5", "0", "2"]) => {
                self.updates += 1;
                match self.update {
                    Update::Refused => return Some(Response::new(Code::METHOD_NOT_ALLOWED)),
                    _ if self.state != 2 => return Some(Response::new(Code::METHOD_NOT_ALLOWED)),
                    Update::Begins => self.state = 3,
                    Update::Ends(state, result) => (self.state, self.result) = (state, result),
                }
                changed
            }
            _ => return None,
        })
    }

    /// Object 9: initial 0, delivered 3, installed 4 (LwM2M Software Management 1.0, §6.1).
    fn on_software(&mut self, request: &Request) -> Option<Response> {
        let software = self.software.as_mut()?;
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        let refused = Response::new(Code::METHOD_NOT_ALLOWED);
        match (request.method, path.as_slice()) {
            (Code::GET, ["9", "0"]) => {
                let Self { state, result, .. } = self;
                let senml =
                    format!(r#"[{{"bn":"/9/0/","n":"7","v":{state}}},{{"n":"9","v":{result}}}]"#);
                return Some(content(110, &senml));
            }
            (Code::PUT, ["9", "0", "2"]) => {
                if self.state != 0 {
                    return Some(refused);
                }
                self.package.clone_from(&request.payload);
                (self.state, self.result) = (3, 3);
            }
            (Code::POST, ["9", "0", "4"]) => {
                if self.state != 3 {
                    return Some(refused);
                }
                self.updates += 1;
                (self.state, self.result) = (INSTALLED, 2);
            }
            (Code::POST, ["9", "0", "6"]) => {
                software.uninstalls.push(text(request));
                software.active = false;
                (self.state, self.result) = (0, 0);
            }
            (Code::POST, ["9", "0", "10"]) => software.active = true,
            _ => return None,
        }
        Some(Response::new(Code::CHANGED))
    }

    fn reset(&mut self) {
        (self.state, self.result) = (0, 0);
        self.resets += 1;
    }

    fn senml(&self) -> String {
        let Self {
            state,
            result,
            delivery,
            ..
        } = self;
        let protocols: String = self
            .protocols
            .iter()
            .enumerate()
            .map(|(index, number)| format!(r#",{{"n":"8/{index}","v":{number}}}"#))
            .collect();
        format!(
            r#"[{{"bn":"/5/0/","n":"3","v":{state}}},{{"n":"5","v":{result}}},{{"n":"9","v":{delivery}}}{protocols}]"#
        )
    }
}

/// The text in a Write, in whatever format it came.
fn text(request: &Request) -> String {
    if request.content_format == Some(110) {
        let records: Json = serde_json::from_slice(&request.payload).unwrap();
        return records[0]["vs"].as_str().unwrap().to_owned();
    }
    String::from_utf8(request.payload.clone()).unwrap()
}
