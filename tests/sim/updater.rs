//! Object 5 of a scripted device, which takes packages and does with them what the test wants.

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
        }
    }
}

impl Updater {
    /// Answers what is about object 5.
    pub fn on_request(&mut self, request: &Request) -> Option<Response> {
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
