//! Sessions that move from one process to the next.
//!
//! One byte of version, one of role, one of the length of our connection IDs, and what Mbed TLS
//! wrote. It is the state of a session, keys included: whoever reads it can read the session, and
//! whoever changes it decides what C does with it. It leaves the process sealed only.

use std::sync::Arc;

use super::ffi::{Build, Config, Context, Role};
use super::session::Session;
use crate::dtls::Fatal;
use crate::secret::Secret;

const VERSION: u8 = 1;
const SERVER: u8 = 0;
const CLIENT: u8 = 1;

/// Takes the session out of its context.
pub(super) fn write(context: Context) -> Option<Secret> {
    let role = if context.is_server() { SERVER } else { CLIENT };
    let length = u8::try_from(context.config().cid_length).ok()?;
    let state = context.save()?;
    let mut saved = Vec::with_capacity(3 + state.expose().len());
    saved.extend([VERSION, role, length]);
    saved.extend(state.expose());
    Some(Secret::new(saved))
}

/// Goes on with a session.
pub(super) fn read(server: &Arc<Config>, saved: &[u8]) -> Result<Session, Fatal> {
    let unreadable = |why: &str| Fatal::Unsupported(format!("the saved session {why}"));
    let Some(([VERSION, role, length], state)) = saved.split_first_chunk() else {
        return Err(unreadable("is of another version"));
    };
    let length = usize::from(*length);
    let config = match *role {
        SERVER if length == server.cid_length => server.clone(),
        SERVER | CLIENT => Arc::new(
            // All that an open session takes from its configuration.
            Config::new(&Build {
                role: if *role == SERVER {
                    Role::Server
                } else {
                    Role::Client
                },
                suites: &[],
                cid_length: length,
                retransmit: super::RETRANSMIT,
                own: None,
                authorities: &[],
                psk: None,
            })
            .map_err(|problem| Fatal::Unsupported(problem.to_string()))?,
        ),
        _ => return Err(unreadable("is of a role that there is not")),
    };
    let mut context = Context::new(config, None, None).map_err(Fatal::Unsupported)?;
    context
        .load(state)
        .map_err(|problem| unreadable(&format!("is not taken: {problem}")))?;
    Ok(Session::open(context))
}
