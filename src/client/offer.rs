//! What the client tells a server when it registers: parameters and the object list
//! (LwM2M Core 1.1 §6.2.1).

use crate::client::access::{Formats, explicit_version, is_hidden};
use crate::client::tree::Tree;
use crate::coap::{Code, Request};
use crate::lwm2m::{ContentFormat, Version};

/// What a registration tells the server, as it stands now.
pub(super) struct Offer<'a> {
    pub(super) endpoint: &'a str,
    /// Seconds; 0 is for ever.
    pub(super) lifetime: u32,
    pub(super) queue_mode: bool,
    pub(super) tree: &'a Tree,
    pub(super) formats: &'a Formats,
}

impl Offer<'_> {
    /// The object list (LwM2M Core 1.1 §6.2.1.1): `</>;rt="oma.lwm2m";ct="…",</1/0>,</3/0>,…`
    pub(super) fn links(&self, version: Version) -> Vec<u8> {
        let mut list = format!(
            r#"</>;rt="oma.lwm2m";ct="{}""#,
            self.formats.advertised(version)
        );
        for (&id, object) in self.tree.objects() {
            if is_hidden(id) {
                continue;
            }
            let explicit = explicit_version(id, object.version, version);
            if object.instances.is_empty() || explicit.is_some() {
                list.push_str(&format!(",</{id}>"));
            }
            if let Some(explicit) = explicit {
                // LwM2M Core 1.0 §6.2 wrote it in quotes
                match version < Version::V1_1 {
                    true => list.push_str(&format!(r#";ver="{explicit}""#)),
                    false => list.push_str(&format!(";ver={explicit}")),
                }
            }
            for instance in object.instances.keys() {
                list.push_str(&format!(",</{id}/{instance}>"));
            }
        }
        list.into_bytes()
    }

    /// The Register request.
    pub(super) fn register(&self, version: Version) -> Request {
        let mut request = Request::new(Code::POST, ["rd"]);
        request.query = vec![
            format!("ep={}", self.endpoint),
            format!("lt={}", self.lifetime),
            format!("lwm2m={version}"),
        ];
        match (self.queue_mode, version < Version::V1_1) {
            (true, true) => request.query.push("b=UQ".into()),
            (true, false) => request.query.extend(["b=U".into(), "Q".into()]),
            (false, _) => request.query.push("b=U".into()),
        }
        request.content_format = Some(ContentFormat::LINK_FORMAT.0);
        request.payload = self.links(version);
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tree::Resource;
    use crate::lwm2m::Value;

    fn register(version: Version, queue_mode: bool) -> (Request, String) {
        let mut tree = Tree::new();
        for object in [0, 1, 3, 3303] {
            tree.insert(
                object,
                None,
                0,
                [(0, Resource::readable(Value::Integer(1)))],
            );
        }
        tree.insert(3315, Some(Version::V1_1), 2, []);
        let offer = Offer {
            endpoint: "dev1",
            lifetime: 300,
            queue_mode,
            tree: &tree,
            formats: &Formats::default(),
        };
        let request = offer.register(version);
        let list = String::from_utf8(request.payload.clone()).unwrap();
        (request, list)
    }

    #[test]
    fn a_registration_carries_its_parameters_and_the_object_list() {
        let (request, list) = register(Version::V1_1, false);
        assert_eq!(
            (request.method, request.path.join("/")),
            (Code::POST, "rd".into())
        );
        assert_eq!(request.query, ["ep=dev1", "lt=300", "lwm2m=1.1", "b=U"]);
        assert_eq!(request.content_format, Some(40));
        assert_eq!(
            list,
            r#"</>;rt="oma.lwm2m";ct="60 110 112 11542",</1/0>,</3/0>,</3303/0>,</3315>;ver=1.1,</3315/2>"#,
            "and not the Security object"
        );
    }

    #[test]
    fn lwm2m_cbor_is_offered_to_a_server_of_1_2() {
        let (_, list) = register(Version::V1_2, false);
        let root = r#"</>;rt="oma.lwm2m";ct="60 110 112 11542 11544","#;
        assert!(list.starts_with(root), "{list}");
    }

    #[test]
    fn version_1_0_knows_tlv_only_and_quotes_object_versions() {
        let (_, list) = register(Version::V1_0, false);
        assert!(
            list.starts_with(r#"</>;rt="oma.lwm2m";ct="11542","#),
            "{list}"
        );
        assert!(list.contains(r#"</3315>;ver="1.1",</3315/2>"#), "{list}");
    }

    #[test]
    fn queue_mode_is_a_binding_in_1_0_and_a_flag_of_its_own_later() {
        for (version, tail) in [
            (Version::V1_0, &["lwm2m=1.0", "b=UQ"][..]),
            (Version::V1_1, &["lwm2m=1.1", "b=U", "Q"]),
        ] {
            assert_eq!(&register(version, true).0.query[2..], tail);
        }
    }
}
