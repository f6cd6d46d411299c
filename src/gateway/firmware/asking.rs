//! What is asked of the devices.

use std::sync::Arc;

use bytes::Bytes;

use super::job::{Method, Step};
use super::object::{State, Target};
use super::{POLL, backoff};
use crate::coap::Position;
use crate::gateway::{Gateway, Purpose};
use crate::lwm2m::{Arguments, Path, Record, Value};
use crate::server::{DeviceId, Operation};
use crate::time::Now;

impl Gateway {
    /// Asks the next thing of a device.
    pub(super) fn take_step(&mut self, now: Now, id: DeviceId, endpoint: &Arc<str>) {
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        entry.probes = false;
        let (target, method) = (entry.job.target, entry.job.method);
        let operation = match entry.job.step {
            Step::Poll => {
                let at = now.instant + backoff(POLL, entry.job.polls);
                return self.firmware.set_due(endpoint, Some(at));
            }
            Step::Read => Operation::Read(target.path().into()),
            Step::Install => Operation::Execute(target.install(), Arguments::default()),
            Step::Activate => Operation::Execute(target.activate(), Arguments::default()),
            Step::Clear(way) => match (target, way == 0) {
                (Target::Software(_), first) => {
                    let installed = entry.job.seen == Some(State::Installed);
                    // 1: to make room for another version, not to be rid of it.
                    let for_update = (installed && first).then_some((1, None));
                    let arguments = Arguments(for_update.into_iter().collect());
                    Operation::Execute(target.uninstall(), arguments)
                }
                (Target::Firmware, first) if first == (method != Some(Method::Pull)) => {
                    // A package of one byte, which is zero.
                    let nul = Bytes::from_static(&[0]);
                    return self.upload(now, id, endpoint, nul, Position::START);
                }
                (Target::Firmware, _) => write_text(target.package_uri(), String::new()),
            },
            Step::Send if method == Some(Method::Pull) => {
                match self.place_of(id, endpoint) {
                    Some(uri) => write_text(target.package_uri(), uri),
                    // The content is being loaded, or nothing can be served.
                    None => return self.settle_unserved(now, endpoint),
                }
            }
            Step::Send => {
                let (digest, position) = (entry.job.image.sha256, entry.job.position());
                let Some(content) = self.content(endpoint, digest) else {
                    return;
                };
                return self.upload(now, id, endpoint, content, position);
            }
        };
        let running = self.server.operate(now, id, operation);
        self.purposes.insert(running, Purpose::Update);
        if let Some(entry) = self.firmware.jobs.get_mut(endpoint) {
            entry.running = Some(running);
        }
        self.pump(now);
    }

    /// Nothing can be served yet, or never.
    pub(super) fn settle_unserved(&mut self, now: Now, endpoint: &Arc<str>) {
        let entry = self.firmware.jobs.get(endpoint);
        if entry.is_some_and(|entry| entry.job.stage.is_final()) {
            self.settle_update(now, endpoint, false);
        }
    }

    pub(super) fn upload(
        &mut self,
        now: Now,
        id: DeviceId,
        endpoint: &Arc<str>,
        body: Bytes,
        from: Position,
    ) {
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        let package = entry.job.target.package();
        let running = self.server.upload(now, id, package, body, from);
        entry.running = Some(running);
        self.pump(now);
    }
}

fn write_text(path: Path, text: String) -> Operation {
    let record = Record {
        path,
        value: Value::String(text),
        time: None,
    };
    Operation::Write {
        path,
        records: vec![record],
        replace: true,
    }
}
