//! Profile IDs: names for object lists, so that a device need not send its list each time
//! (LwM2M Core 1.2 §6.2.1, `pid`).

use std::collections::VecDeque;

use rand::rngs::StdRng;

use crate::coap::Code;
use crate::keyed::{self, KeyedMap};
use crate::lwm2m::ObjectList;
use crate::server::registration::Refusal;

/// How much one list may name.
const NODES_MAX: usize = 512;

/// The lists by their IDs, as registrations taught them that carried both. What a hash in an ID is
/// taken of is nowhere defined, so an ID is only a name.
pub(super) struct ProfileIds {
    lists: KeyedMap<Box<str>, ObjectList>,
    /// The oldest first.
    order: VecDeque<Box<str>>,
    limit: usize,
}

impl ProfileIds {
    pub(super) fn new(limit: usize, rng: &mut StdRng) -> Self {
        Self {
            lists: keyed::map(rng),
            order: VecDeque::new(),
            limit,
        }
    }

    /// The objects of a device that names these profiles and sends this list: all of them together.
    /// `None` when it says neither.
    ///
    /// # Errors
    ///
    /// 4.09 when there is no list and a profile is not known: the device sends its list then.
    pub(super) fn resolve(
        &self,
        ids: &[String],
        list: Option<ObjectList>,
    ) -> Result<Option<ObjectList>, Refusal> {
        let mut objects = list;
        let has_list = objects.is_some();
        for id in ids {
            match (self.lists.get(id.as_str()), &mut objects) {
                (Some(known), Some(objects)) => objects.merge(known),
                (Some(known), None) => objects = Some(known.clone()),
                (None, _) if has_list => {}
                (None, _) => {
                    return Err(Refusal::new(
                        Code::CONFLICT,
                        format!(
                            "profile {} is not known; send the object list",
                            id.escape_debug()
                        ),
                    ));
                }
            }
        }
        Ok(objects)
    }

    /// Remembers the list that a device sent beside one profile. With several nobody knows which
    /// of them it is.
    pub(super) fn learn(&mut self, ids: &[String], list: Option<&ObjectList>) {
        let ([id], Some(list)) = (ids, list) else {
            return;
        };
        if self.limit == 0 || list.len() > NODES_MAX || self.lists.contains_key(id.as_str()) {
            return;
        }
        if self.order.len() >= self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.lists.remove(&oldest);
        }
        let id: Box<str> = id.as_str().into();
        self.order.push_back(id.clone());
        self.lists.insert(id, list.clone());
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn list(text: &str) -> ObjectList {
        ObjectList::parse(text.as_bytes()).unwrap()
    }

    fn resolved(known: &ProfileIds, ids: &[&str], text: Option<&str>) -> Result<String, Code> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let objects = known.resolve(&ids, text.map(list));
        objects
            .map(|objects| objects.unwrap_or_default().to_string())
            .map_err(|refusal| refusal.code)
    }

    // conformance: 1.2-int-110, 1.2-int-111
    #[test]
    fn a_list_is_known_by_the_id_that_came_with_it() {
        let mut known = ProfileIds::new(2, &mut StdRng::seed_from_u64(1));
        let ids = ["6:27354b9a".to_owned()];
        assert_eq!(resolved(&known, &["6:27354b9a"], None), Err(Code::CONFLICT));
        known.learn(&ids, Some(&list("</1/0>,</3/0>")));
        let root = "</>;rt=\"oma.lwm2m\"";
        assert_eq!(
            resolved(&known, &["6:27354b9a"], None),
            Ok(format!("{root},</1/0>,</3/0>"))
        );
        assert_eq!(
            resolved(&known, &["6:27354b9a"], Some("</4/0>")),
            Ok(format!("{root},</1/0>,</3/0>,</4/0>"))
        );
        // Whoever sends a list need not send a profile that is known.
        assert_eq!(
            resolved(&known, &["v:other"], Some("</4/0>")),
            Ok(format!("{root},</4/0>"))
        );
        // The first to come keeps it, and the oldest goes.
        known.learn(&ids, Some(&list("</5/0>")));
        for id in ["v:a", "v:b"] {
            known.learn(&[id.to_owned()], Some(&list("</5/0>")));
        }
        assert_eq!(resolved(&known, &["6:27354b9a"], None), Err(Code::CONFLICT));
        assert_eq!((known.lists.len(), known.order.len()), (2, 2));
        let long: Vec<String> = (0..600).map(|id| format!("</9/{id}>")).collect();
        known.learn(&["v:long".to_owned()], Some(&list(&long.join(","))));
        assert!(!known.lists.contains_key("v:long"));
    }
}
