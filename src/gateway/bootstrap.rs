//! What the bootstrap server tells, as events.

use crate::coap::Peer;
use crate::gateway::{Event, Gateway};
use crate::server::bootstrap::News;
use crate::server::{Answer, DeviceId, OperationError};
use crate::time::Now;

impl Gateway {
    pub(super) fn on_bootstrap(
        &mut self,
        now: Now,
        peer: Peer,
        endpoint: Option<&str>,
        news: News,
    ) {
        let address = self.address(peer);
        let name = endpoint.unwrap_or_default().to_owned();
        let event = match news {
            News::Started { profile } => Event::BootstrapStarted {
                endpoint: name,
                address,
                profile,
            },
            News::Reached(step) => Event::BootstrapProgress {
                endpoint: name,
                step: step.to_string(),
            },
            News::Done {
                written,
                seconds,
                notes,
            } => Event::BootstrapDone {
                endpoint: name,
                written,
                seconds,
                notes,
            },
            News::Failed { step, detail } => Event::BootstrapFailed {
                endpoint: name,
                step: step.to_string(),
                detail,
            },
            News::Packed { profile, written } => Event::BootstrapPack {
                endpoint: name,
                address,
                profile,
                written,
            },
            News::Refused(refusal) => {
                self.counters.refused += 1;
                let source = self.server.route(peer).map(|route| route.address.ip());
                let event = Event::BootstrapRefused {
                    endpoint: endpoint.map(str::to_owned),
                    address,
                    identity: self.server.identity(peer).map(ToString::to_string),
                    code: refusal.code.to_string(),
                    detail: refusal.detail,
                };
                return self.report_about(now, source, event);
            }
        };
        self.report(now, event);
    }

    /// A device answered whether it will bootstrap. If so, it comes to the bootstrap server by
    /// itself.
    pub(super) fn on_bootstrap_asked(
        &mut self,
        now: Now,
        id: DeviceId,
        result: Result<Answer, OperationError>,
    ) {
        let (Err(error), Some(endpoint)) = (result, self.server.endpoint_name(id)) else {
            return;
        };
        let event = Event::BootstrapFailed {
            endpoint: endpoint.to_string(),
            step: "trigger".to_owned(),
            detail: error.to_string(),
        };
        self.report(now, event);
    }
}
