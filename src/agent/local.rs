//! What the agent has on its own machine: the store, the socket of the command line, and the files
//! of devices.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value as Json, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::agent::admin::{Answer, Heard, Request, Socket};
use crate::agent::config::{self, Config};
use crate::agent::devices::{self, DeviceFiles, Reading};
use crate::agent::images::{Images, Limits as ImageLimits, Loaded};
use crate::agent::mappings::MappingFiles;
use crate::agent::run::Clock;
use crate::agent::store::{Sqlite, StoreError, Unstored, Writer};
use crate::agent::watched::Watch;
use crate::gateway::firmware::image::{Digest, Image};
use crate::gateway::{Gateway, Input, MappingCause, MappingsRead};
use crate::kept::{Change, Kept};
use crate::server::credentials::File;
use crate::time::{Instant, Now};

/// What the agent is to have; by default nothing.
#[derive(Default)]
pub struct Settings {
    /// The folder of the store.
    pub store: Option<PathBuf>,
    /// The socket of the command line.
    pub socket: Option<PathBuf>,
    /// Files and folders with devices.
    pub device_files: Vec<PathBuf>,
    /// The mapping files; without them, none are read again.
    pub mappings: Option<MappingFiles>,
    /// How much there may be of images.
    pub images: ImageLimits,
}

impl Settings {
    /// What the configuration says, and the mapping files that it names.
    pub fn of(config: &Config, mappings: MappingFiles) -> Self {
        Self {
            store: Some(config.store.path.clone()),
            socket: Some(config.admin.socket.clone()),
            device_files: config.devices.files.clone(),
            mappings: Some(mappings),
            images: ImageLimits {
                image: config.firmware.max_image,
                all: config.firmware.max_size,
            },
        }
    }
}

/// Something came from this machine.
pub enum Event {
    /// Somebody asks something, or goes.
    Heard(Heard),
    /// Files of devices changed, or somebody wants them read again.
    Files(Reading),
    /// Somebody wants all files read again.
    HungUp,
    /// The mapping files were read again.
    Mappings(MappingsRead),
    /// An image was loaded.
    Image(Loaded),
}

/// What the agent has.
pub struct Local {
    writer: Option<Writer>,
    /// Why the last change is not on the disk, until the next answer has said so.
    failure: Option<String>,
    socket: Option<Socket>,
    waiting: BTreeMap<u64, Answer>,
    first_files: Option<Reading>,
    files: Watch<(), Reading>,
    mappings: Option<Watch<MappingCause, MappingsRead>>,
    images: Option<Images>,
    hangup: Option<Signal>,
}

impl Local {
    /// Opens all of it.
    ///
    /// In the places where they are by default, a user who may not write there gets neither store
    /// nor socket, and a warning: that is somebody who tries the program.
    ///
    /// # Errors
    ///
    /// When the store or the socket cannot be used.
    pub fn open(settings: Settings, clock: Clock) -> anyhow::Result<Self> {
        let mut writer = None;
        if let Some(folder) = &settings.store
            && let Some(opened) = open_store(folder)?
        {
            writer = Some(Writer::new(Box::new(opened)));
        }
        let socket = match &settings.socket {
            None => None,
            Some(path) => bind_socket(path)?,
        };
        let images = match settings.store.filter(|_| writer.is_some()) {
            None => None,
            Some(folder) => Some(Images::open(folder.join("firmware"), settings.images)?),
        };
        let mut files = DeviceFiles::new(settings.device_files);
        Ok(Self {
            writer,
            images,
            failure: None,
            socket,
            waiting: BTreeMap::new(),
            first_files: Some(files.read(clock.now().unix)),
            files: devices::watch(files, clock)?,
            mappings: settings.mappings.map(MappingFiles::watch).transpose()?,
            hangup: signal(SignalKind::hangup()).ok(),
        })
    }

    /// Whether changes are kept.
    pub const fn has_store(&self) -> bool {
        self.writer.is_some()
    }

    /// Whether there are mapping files to read again.
    pub const fn has_mappings(&self) -> bool {
        self.mappings.is_some()
    }

    /// Gives the core who may come in, as the store has it.
    ///
    /// # Errors
    ///
    /// When it cannot be read or makes no sense.
    pub fn restore_credentials(&self, now: Now, gateway: &mut Gateway) -> Result<(), StoreError> {
        if let Some(store) = self.writer.as_ref().map(Writer::store) {
            let kept = Kept {
                credentials: store.credentials()?,
                ..Kept::default()
            };
            give_back(now, gateway, kept);
        }
        Ok(())
    }

    /// Gives the core what else the store holds. Who may come in, by the files as well, comes
    /// first.
    ///
    /// # Errors
    ///
    /// When it cannot be read or makes no sense.
    pub fn restore(&self, now: Now, gateway: &mut Gateway) -> Result<(), StoreError> {
        if let Some(store) = self.writer.as_ref().map(Writer::store) {
            store.load(&mut |part| give_back(now, gateway, part))?;
            gateway.restored(now);
        }
        Ok(())
    }

    /// Gives the files of devices to the core for the first time.
    pub fn take_files(&mut self, now: Now, gateway: &mut Gateway) {
        if let Some(reading) = self.first_files.take() {
            self.handle(now, Event::Files(reading), gateway);
        }
    }

    /// The next thing that comes. Cancel-safe.
    pub async fn event(&mut self) -> Event {
        let Self {
            socket,
            files,
            mappings,
            images,
            hangup,
            ..
        } = self;
        let heard = async {
            match socket {
                Some(socket) => socket.hear().await,
                None => std::future::pending().await,
            }
        };
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let loaded = async {
            match images {
                Some(images) => images.loaded().await,
                None => std::future::pending().await,
            }
        };
        let mapped = async {
            match mappings {
                Some(mappings) => mappings.reading().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = heard => Event::Heard(heard),
            _ = hung_up => Event::HungUp,
            read = mapped => Event::Mappings(read),
            reading = files.reading() => Event::Files(reading),
            loaded = loaded => Event::Image(loaded),
        }
    }

    /// Gives what came to the core.
    pub fn handle(&mut self, now: Now, event: Event, gateway: &mut Gateway) {
        match event {
            Event::Heard(Heard::Left(id)) => {
                self.waiting.remove(&id);
                gateway.handle(now, Input::AdminLeft(id));
            }
            Event::Heard(Heard::Request(Request { id, line, answer })) => {
                if let Some(reply) = self.on_image_request(&line, gateway) {
                    answer.end(reply.to_string());
                    return;
                }
                self.failure = None;
                self.waiting.insert(id, answer);
                let request = line.as_slice();
                gateway.handle(now, Input::Admin { id, request });
            }
            Event::HungUp => {
                self.files.read_again(());
                if let Some(mappings) = &self.mappings {
                    mappings.read_again(MappingCause::Signal);
                }
            }
            Event::Mappings(read) => {
                for diagnostic in &read.diagnostics {
                    warn!("{diagnostic} ({})", diagnostic.hint);
                }
                gateway.handle(now, Input::Mappings(read));
            }
            Event::Image(Loaded { digest, content }) => {
                gateway.handle(now, Input::Image { digest, content });
            }
            Event::Files(Reading { files, diagnostics }) => {
                let count = files.found.len();
                let is_sound = |file: &&File| file.content.is_some();
                let sound = files.found.iter().filter(is_sound).count();
                let conflicts = gateway.replace_files(now, files);
                for diagnostic in diagnostics.iter().chain(&conflicts) {
                    warn!("{diagnostic} ({})", diagnostic.hint);
                }
                if count > 0 {
                    info!(
                        "files of devices read: {count}, with mistakes: {}",
                        count - sound
                    );
                }
                if count > sound || !conflicts.is_empty() {
                    warn!("of a file of devices with mistakes, what it held before stays");
                }
            }
        }
    }

    /// Has the mapping files read again, because the core asks for it.
    pub fn read_mappings(&self) {
        if let Some(mappings) = &self.mappings {
            mappings.read_again(MappingCause::Request);
        }
    }

    /// Answers what is about the files of images; `None` for what is the core's to answer.
    fn on_image_request(&mut self, line: &[u8], gateway: &mut Gateway) -> Option<Json> {
        // Most are something else, and not to be read twice.
        let names = |verb: &[u8]| line.windows(verb.len()).any(|bytes| bytes == verb);
        if !names(b"\"firmware/put\"") && !names(b"\"firmware/remove\"") {
            return None;
        }
        let request: Json = serde_json::from_slice(line).ok()?;
        let verb = request.get("verb")?.as_str()?.to_owned();
        if !matches!(verb.as_str(), "firmware/put" | "firmware/remove") {
            return None;
        }
        let done = match &mut self.images {
            None => Err(anyhow::anyhow!(
                "this agent runs without a store; see [store] path"
            )),
            Some(images) if verb == "firmware/put" => images.put(request),
            Some(images) => {
                let needed: Vec<_> = gateway.needed_images().into_iter().collect();
                images.remove(request, &needed)
            }
        };
        gateway.set_images(self.image_list());
        Some(match done {
            Ok(result) => json!({ "ok": true, "result": result }),
            Err(error) => json!({ "ok": false, "error": {
                "kind": "parse", "detail": format!("{error:#}"),
            }}),
        })
    }

    /// The images that are there.
    pub fn image_list(&self) -> Vec<Image> {
        self.images.as_ref().map_or_else(Vec::new, Images::list)
    }

    /// Where the file of an image is.
    pub fn image_path(&self, digest: Digest) -> Option<PathBuf> {
        let images = self.images.as_ref()?;
        images.path(digest).map(Path::to_owned)
    }

    /// Loads an image for the core.
    pub fn load_image(&self, digest: Digest) {
        // Without a store there are no images to ask for.
        if let Some(images) = &self.images {
            images.load(digest);
        }
    }

    /// Keeps changes, the urgent ones before this returns. What cannot be kept holds until the end
    /// of the process, and is said.
    ///
    /// # Errors
    ///
    /// The urgent changes, and why they could not be kept.
    pub fn store(&mut self, now: Instant, changes: Vec<Change>) -> Result<(), Unstored> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        writer.keep(now, changes).inspect_err(|unstored| {
            self.failure = Some(unstored.why.clone());
        })
    }

    /// When [`flush`](Self::flush) is due.
    pub fn flush_due(&self) -> Option<Instant> {
        self.writer.as_ref()?.flush_due()
    }

    /// Writes what waited.
    pub fn flush(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.flush();
        }
    }

    /// Says a line of the answer to a request; the last one, unless `more` follow.
    pub fn answer(&mut self, id: u64, reply: String, more: bool) {
        if more {
            if let Some(answer) = self.waiting.get_mut(&id) {
                answer.say(reply);
            }
            return;
        }
        let Some(answer) = self.waiting.remove(&id) else {
            return;
        };
        // What could not be stored is of a request that is answered at once.
        let failure = self.failure.take().filter(|_| !answer.is_begun());
        answer.end(match failure {
            None => reply,
            Some(failure) => unstored(&failure).to_string(),
        });
    }
}

fn give_back(now: Now, gateway: &mut Gateway, part: Kept) {
    for refused in gateway.restore(now, part) {
        warn!("{refused}");
    }
}

fn unstored(failure: &str) -> Json {
    json!({ "ok": false, "error": {
        "kind": "internal",
        "detail": format!("it is done, but could not be stored, so it is lost at the agent's next start: {failure}"),
    }})
}

fn open_store(folder: &Path) -> Result<Option<Sqlite>, StoreError> {
    match Sqlite::open(folder) {
        Err(refused) if refused.is_permission() && folder == config::Store::default().path => {
            warn!(
                "{refused}; without a store no device can be added: set [store] path, or run as a user who may write there"
            );
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

fn bind_socket(path: &Path) -> anyhow::Result<Option<Socket>> {
    let bound = Socket::bind(path);
    let forbidden = bound.as_ref().is_err_and(|error| {
        error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    });
    match bound {
        Err(refused) if forbidden && path == config::Admin::default().socket => {
            warn!(
                "{refused:#}; the command line cannot reach this agent: set [admin] socket, or run as a user who may write there"
            );
            Ok(None)
        }
        bound => bound.map(Some).context("the socket of the command line"),
    }
}
