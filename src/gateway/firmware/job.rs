//! One update of one device, as a state machine: what the device was last seen to be, and what to
//! ask of it next. It knows neither messages nor time.

use serde::{Deserialize, Serialize};

use super::image::Image;
use super::object::{State, Target, Verdict};
use crate::coap::{Code, Position};

/// How often a job begins again by itself, or the same is asked of a device that did not do it.
const ATTEMPTS: u32 = 3;
/// How often a device that says nothing of its result is asked before that is taken for an end.
const POLLS_WITHOUT_RESULT: u32 = 10;

/// How the package gets to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// It is written to Package, block by block.
    Push,
    /// Its place is written to Package URI, and the device fetches it.
    Pull,
}

/// How far a job is. It is what has to be known after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The device is not prepared yet.
    Begun,
    /// The package is going out, or its URI.
    Sending,
    /// All is sent; the device checks it, or fetches it.
    Sent,
    /// The device was told to install, or does it by itself.
    Installing,
    /// It is installed.
    Done,
    /// It came to nothing.
    Failed,
    /// The operator gave it up.
    Cancelled,
}

impl Stage {
    /// Whether nothing follows.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// Whether the gateway has to work for it, so that only so many are there at a time.
    pub const fn needs_turn(self) -> bool {
        matches!(self, Self::Begun | Self::Sending | Self::Sent)
    }
}

/// What to ask of the device next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// Read the instance at once.
    #[default]
    Read,
    /// Read the instance after a while, which grows with [`Job::polls`].
    Poll,
    /// Bring it back to its beginning: first by the usual way, then by the other.
    Clear(u8),
    /// Send the package from [`Job::position`] on, or its URI.
    Send,
    /// Tell it to install.
    Install,
    /// Tell it to activate what is installed (object 9).
    Activate,
}

/// What a device said when its instance was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// State.
    pub state: State,
    /// Update Result.
    pub verdict: Verdict,
    /// Whether the firmware version is another than when the job began.
    pub other_version: bool,
}

/// Why something that was asked was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device did not answer: it is away, or asleep.
    Away,
    /// It answered with an error.
    Refused(Code, String),
    /// It answered with something that makes no sense.
    Strange(String),
}

/// An update.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The order in which jobs were begun.
    pub number: u64,
    /// What is installed.
    pub image: Image,
    /// Which object takes it.
    pub target: Target,
    /// How; `None` as long as the device was not asked what it can.
    pub method: Option<Method>,
    /// What the device is to fetch, if it is not to be what we serve.
    pub uri: Option<String>,
    /// What it is served as to the device, which only the device is told.
    pub token: Option<String>,
    /// The protocols that the device says it can fetch by, a bit a number of /5/0/8; 0 when it has
    /// not said.
    pub protocols: u8,
    /// How far it is.
    pub stage: Stage,
    /// The stage that `since` is about.
    pub told: Option<Stage>,
    /// Bytes that the device has.
    pub offset: u64,
    /// The block size that the device agreed to, in bytes.
    pub block_size: u16,
    /// How often it began from the start.
    pub attempts: u32,
    /// The firmware version at the beginning.
    pub version: Option<String>,
    /// Update Result at the end.
    pub result: Option<u8>,
    /// Why it ended, in words.
    pub reason: Option<String>,
    /// Whether the device has said that it does what it was told to install.
    pub install_confirmed: bool,
    /// Since when it is in this stage, in milliseconds since the epoch.
    pub since: i64,

    /// What comes next.
    #[serde(skip)]
    pub step: Step,
    /// How often in a row the device was read without news.
    #[serde(skip)]
    pub polls: u32,
    /// What the device was last seen to be.
    #[serde(skip)]
    pub seen: Option<State>,
    /// Whether it registered since it was told to install.
    #[serde(skip)]
    pub registered_since: bool,
    /// How often it was told to install.
    #[serde(skip)]
    pub installs: u32,
    /// Whether the device's user put it off.
    #[serde(skip)]
    pub deferred: bool,
}

impl Job {
    /// Where the next block begins.
    pub fn position(&self) -> Position {
        Position {
            offset: usize::try_from(self.offset).unwrap_or_default(),
            block_size: self.block_size,
        }
    }

    /// Whether the device fetches the package, or is about to.
    pub fn is_fetched(&self) -> bool {
        self.stage == Stage::Sent && self.method == Some(Method::Pull)
    }

    /// The device was lost from sight: whatever it is now has to be read first.
    pub fn look_again(&mut self) {
        self.step = Step::Read;
        self.polls = 0;
    }

    /// The device registered: it may have restarted.
    pub fn registered(&mut self) {
        if self.stage == Stage::Installing {
            self.registered_since = true;
        }
        self.look_again();
    }

    /// Takes in what the device says of itself.
    pub fn take(&mut self, seen: Seen) {
        let news = self.seen != Some(seen.state);
        self.seen = Some(seen.state);
        self.polls = if news { 0 } else { self.polls + 1 };
        self.deferred = seen.verdict == Verdict::Deferred;
        match self.stage {
            Stage::Begun => self.take_begun(seen),
            Stage::Sending => self.take_sending(seen),
            Stage::Sent => self.take_sent(seen),
            Stage::Installing => self.take_installing(seen),
            Stage::Done | Stage::Failed | Stage::Cancelled => {}
        }
    }

    fn take_begun(&mut self, seen: Seen) {
        match (seen.state, seen.verdict) {
            // Somebody else's update; nothing may be written now.
            (State::Updating, _) => self.step = Step::Poll,
            (State::Idle, Verdict::None) => self.send_from_start(),
            _ => self.step = Step::Clear(0),
        }
    }

    fn send_from_start(&mut self) {
        self.stage = Stage::Sending;
        self.offset = 0;
        self.step = Step::Send;
    }

    fn take_sending(&mut self, seen: Seen) {
        let pushed = self.method != Some(Method::Pull);
        let all_but_confirmed =
            self.offset > 0 && self.offset + u64::from(self.block_size) >= self.image.size;
        match (seen.state, seen.verdict) {
            (State::Idle, Verdict::Failed(result)) => self.fail_with(result),
            (State::Idle | State::Downloading, _) if pushed => self.step = Step::Send,
            (State::Idle, _) => self.step = Step::Send,
            (State::Downloaded, _) if pushed && !all_but_confirmed => {
                // A package, but not this one.
                self.stage = Stage::Begun;
                self.step = Step::Clear(0);
            }
            _ => {
                self.stage = Stage::Sent;
                self.take_sent(seen);
            }
        }
    }

    fn take_sent(&mut self, seen: Seen) {
        match (seen.state, seen.verdict) {
            (State::Downloading, _) => self.step = Step::Poll,
            (State::Downloaded, Verdict::Failed(result)) => self.fail_with(result),
            (State::Downloaded, _) => {
                self.offset = self.image.size.max(self.offset);
                self.step = Step::Install;
            }
            (State::Idle, Verdict::Failed(result)) => self.fail_with(result),
            // It installs by itself what it has (/5/0/14).
            (State::Updating, _) => {
                self.stage = Stage::Installing;
                self.install_confirmed = true;
                self.step = Step::Poll;
            }
            (State::Idle, Verdict::Success) => self.done(),
            (State::Installed, _) => self.step = Step::Activate,
            // One that fetches may not have begun.
            (State::Idle, _) if self.method == Some(Method::Pull) && self.polls < 5 => {
                self.step = Step::Poll;
            }
            (State::Idle, _) => self.begin_again("the device has lost the package"),
        }
    }

    fn take_installing(&mut self, seen: Seen) {
        match (seen.state, seen.verdict) {
            (State::Idle, Verdict::Success) => self.done(),
            (State::Idle | State::Downloaded, Verdict::Failed(result)) => {
                self.end(Stage::Failed, Some(result), None);
            }
            (State::Installed, _) => self.step = Step::Activate,
            (State::Downloaded, Verdict::None) if !self.install_confirmed => {
                if self.installs >= ATTEMPTS {
                    self.fail("the device does not do what it is told: to install the package");
                } else {
                    self.step = Step::Install;
                }
            }
            (State::Idle, Verdict::None)
                if self.registered_since || self.polls >= POLLS_WITHOUT_RESULT =>
            {
                // It should remember its result (pitfall P31); its version tells as much.
                if seen.other_version {
                    self.done();
                } else {
                    self.fail(
                        "the device has no package any more, and says nothing of how it ended",
                    );
                }
            }
            _ => self.step = Step::Poll,
        }
    }

    /// The device was brought back to its beginning, or would not be.
    pub fn cleared(&mut self, way: u8, result: Result<(), Fault>) {
        match result {
            Ok(()) => self.send_from_start(),
            Err(Fault::Away) => self.look_again(),
            Err(Fault::Refused(..) | Fault::Strange(_)) if way == 0 => self.step = Step::Clear(1),
            Err(Fault::Refused(code, text)) => self.fail(&format!(
                "the device cannot be brought back to its beginning: {}",
                said(code, &text)
            )),
            Err(Fault::Strange(text)) => self.fail(&text),
        }
    }

    /// The device has so much of the package.
    pub fn progressed(&mut self, position: Position) {
        self.offset = position.offset as u64;
        self.block_size = position.block_size;
    }

    /// The package is all with the device, or its URI; or the device refused it.
    pub fn sent(&mut self, result: Result<(), Fault>) {
        match result {
            Ok(()) => {
                self.stage = Stage::Sent;
                if self.method == Some(Method::Push) {
                    self.offset = self.image.size;
                }
                self.look_again();
            }
            Err(Fault::Away) => self.look_again(),
            // What is wrong, its result says better, if it has one.
            Err(Fault::Refused(code, text)) => {
                self.reason = Some(said(code, &text));
                self.attempts += 1;
                if self.attempts >= ATTEMPTS || code == Code::REQUEST_ENTITY_TOO_LARGE {
                    let reason = format!("the device refuses the package: {}", said(code, &text));
                    return self.fail(&reason);
                }
                self.offset = 0;
                self.look_again();
                self.step = Step::Poll;
            }
            Err(Fault::Strange(text)) => self.begin_again(&text),
        }
    }

    /// The device was told to install.
    pub fn told_to_install(&mut self, result: Result<(), Fault>) {
        self.installs += 1;
        match result {
            Ok(()) => {
                self.stage = Stage::Installing;
                self.install_confirmed = true;
                self.registered_since = false;
                self.polls = 0;
                self.step = Step::Poll;
            }
            // It may have heard it, and restarted at once.
            Err(Fault::Away) => {
                self.stage = Stage::Installing;
                self.look_again();
            }
            Err(Fault::Refused(code, text)) => {
                if self.installs >= ATTEMPTS {
                    let reason = format!("the device refuses to install: {}", said(code, &text));
                    return self.fail(&reason);
                }
                self.step = Step::Poll;
            }
            Err(Fault::Strange(_)) => self.step = Step::Poll,
        }
    }

    /// The device was told to activate the software.
    pub fn activated(&mut self, result: Result<(), Fault>) {
        match result {
            Ok(()) => self.done(),
            Err(Fault::Away) => self.look_again(),
            Err(Fault::Refused(code, text)) => self.fail(&format!(
                "installed, but not activated: {}",
                said(code, &text)
            )),
            Err(Fault::Strange(text)) => self.fail(&text),
        }
    }

    fn done(&mut self) {
        let result = match self.target {
            Target::Firmware => 1,
            Target::Software(_) => 2,
        };
        self.end(Stage::Done, Some(result), None);
    }

    fn fail_with(&mut self, result: u8) {
        if self.target.is_passing(result) && self.attempts + 1 < ATTEMPTS {
            self.begin_again(self.target.words(result));
        } else {
            self.end(Stage::Failed, Some(result), None);
        }
    }

    /// Ends it for a reason that is no result of the device.
    pub fn fail(&mut self, reason: &str) {
        self.end(Stage::Failed, None, Some(reason));
    }

    fn begin_again(&mut self, reason: &str) {
        self.attempts += 1;
        if self.attempts >= ATTEMPTS {
            return self.fail(reason);
        }
        self.reason = Some(reason.to_owned());
        self.stage = Stage::Begun;
        self.offset = 0;
        self.installs = 0;
        self.step = Step::Poll;
    }

    fn end(&mut self, stage: Stage, result: Option<u8>, reason: Option<&str>) {
        self.stage = stage;
        self.result = result;
        self.reason = reason
            .map(str::to_owned)
            .or_else(|| Some(self.target.words(result?).to_owned()));
    }

    /// Gives it up.
    pub fn cancel(&mut self) {
        self.end(Stage::Cancelled, None, Some("cancelled by the operator"));
    }
}

fn said(code: Code, text: &str) -> String {
    match text {
        "" => format!("{code} {}", code.name()),
        text => format!("{code} {}: {text}", code.name()),
    }
}
