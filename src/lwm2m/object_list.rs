//! What a device registers: the payload of Register and Update (LwM2M Core 1.1 §6.2.1).

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::link::{self, Link, LinkError};
use super::model::Version;
use super::path::{Id, Path};
use super::registered::RegisteredObject;

/// Objects that are never registered; some devices list them all the same.
const UNREGISTERED: [Id; 3] = [0, 21, 23];

/// The payload of a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct ObjectList {
    /// Where the device has its objects, `/lwm2m`, unless at the root.
    #[n(0)]
    pub alternate: Option<String>,
    /// The Content-Formats that the device says it has beyond the mandatory ones.
    #[n(1)]
    pub formats: Vec<u16>,
    /// The objects, ascending by id, each with its instances ascending.
    #[n(2)]
    pub objects: Vec<RegisteredObject>,
    /// How many links were left out, because they name no object or one that is never registered.
    #[n(3)]
    pub ignored: usize,
}

impl ObjectList {
    /// Reads the payload of a registration.
    ///
    /// # Errors
    ///
    /// When it is not link format.
    pub fn parse(payload: &[u8]) -> Result<Self, LinkError> {
        Ok(Self::from_links(&link::parse(payload)?))
    }

    /// What the links of a payload say. Links that name no object are no reason to refuse a device.
    pub fn from_links(links: &[Link]) -> Self {
        let mut list = Self::default();
        let root = links
            .iter()
            .find(|link| is_lwm2m(link))
            .or_else(|| links.iter().find(|link| link.target == "/"));
        if let Some(root) = root {
            list.alternate = Some(root.target.clone()).filter(|target| target != "/");
            list.formats = formats(root.value("ct").unwrap_or_default());
        }
        let mut prefix = list.alternate.as_deref().unwrap_or_default();
        if !links.iter().any(|link| path(link, prefix).is_some()) {
            // Some devices register an alternate path and do not use it.
            prefix = "";
        }
        let mut objects = BTreeMap::new();
        for link in links {
            match path(link, prefix) {
                Some(path) => add(&mut objects, &path, link),
                None if root.is_some_and(|root| std::ptr::eq(root, link)) => {}
                None => list.ignored += 1,
            }
        }
        list.objects = objects.into_values().collect();
        for object in &mut list.objects {
            object.instances.sort_unstable();
            object.instances.dedup();
        }
        list
    }
}

impl ObjectList {
    /// Enters an Object Instance. Whether it was not there.
    pub fn insert(&mut self, object: Id, instance: Id) -> bool {
        let at = self.objects.binary_search_by_key(&object, |known| known.id);
        let at = at.unwrap_or_else(|at| {
            let object = RegisteredObject {
                id: object,
                version: None,
                instances: Vec::new(),
            };
            self.objects.insert(at, object);
            at
        });
        let Some(object) = self.objects.get_mut(at) else {
            return false;
        };
        let place = object.instances.binary_search(&instance);
        if let Err(at) = place {
            object.instances.insert(at, instance);
        }
        place.is_err()
    }

    /// Takes an Object Instance out; the object stays, as one without instances does. Whether it
    /// was there.
    pub fn remove(&mut self, object: Id, instance: Id) -> bool {
        let mut objects = self.objects.iter_mut();
        let known = objects.find(|known| known.id == object);
        known.is_some_and(|object| {
            let place = object.instances.binary_search(&instance);
            if let Ok(at) = place {
                object.instances.remove(at);
            }
            place.is_ok()
        })
    }

    /// Takes over what another list has and this one does not.
    pub fn merge(&mut self, other: &Self) {
        self.alternate = self.alternate.take().or_else(|| other.alternate.clone());
        if self.formats.is_empty() {
            self.formats.clone_from(&other.formats);
        }
        for object in &other.objects {
            match self
                .objects
                .binary_search_by_key(&object.id, |known| known.id)
            {
                Err(at) => self.objects.insert(at, object.clone()),
                Ok(_) => object.instances.iter().for_each(|instance| {
                    self.insert(object.id, *instance);
                }),
            }
        }
    }

    /// How many objects and instances it has.
    pub fn len(&self) -> usize {
        let instances = self.objects.iter().map(|object| object.instances.len());
        self.objects.len() + instances.sum::<usize>()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

fn is_lwm2m(link: &Link) -> bool {
    let types = link.value("rt").unwrap_or_default();
    link.target.starts_with('/') && types.split_ascii_whitespace().any(|rt| rt == "oma.lwm2m")
}

/// One number, or several with white space between them.
fn formats(text: &str) -> Vec<u16> {
    let numbers = text.split(|letter: char| letter.is_ascii_whitespace() || letter == ',');
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// The object or Object Instance that a link beneath `prefix` names.
fn path(link: &Link, prefix: &str) -> Option<Path> {
    let path: Path = link.target.strip_prefix(prefix)?.parse().ok()?;
    let is_object = (1..=2).contains(&path.ids().len());
    let is_registered = !UNREGISTERED.contains(&path.object_id()?);
    (is_object && is_registered).then_some(path)
}

fn add(objects: &mut BTreeMap<Id, RegisteredObject>, path: &Path, link: &Link) {
    let Some(id) = path.object_id() else {
        return;
    };
    let object = objects.entry(id).or_insert_with(|| RegisteredObject {
        id,
        version: None,
        instances: Vec::new(),
    });
    let version: Option<Version> = link.value("ver").and_then(|ver| ver.parse().ok());
    match path.instance_id() {
        // The object's own link has the last word.
        None => object.version = version.or(object.version),
        Some(instance) => {
            object.version = object.version.or(version);
            object.instances.push(instance);
        }
    }
}

/// The payload of a registration; `ver` stands at the object (LwM2M Core 1.1 §7.2.2).
impl fmt::Display for ObjectList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.alternate.as_deref().unwrap_or_default();
        let root = if prefix.is_empty() { "/" } else { prefix };
        write!(f, "<{root}>")?;
        link::write_attribute(f, "rt", Some("oma.lwm2m"))?;
        let mut formats = String::new();
        for format in &self.formats {
            let space = if formats.is_empty() { "" } else { " " };
            write!(formats, "{space}{format}")?;
        }
        if !formats.is_empty() {
            link::write_attribute(f, "ct", Some(&formats))?;
        }
        for object in &self.objects {
            if let Some(version) = object.version {
                write!(f, ",<{prefix}/{}>;ver={version}", object.id)?;
            } else if object.instances.is_empty() {
                write!(f, ",<{prefix}/{}>", object.id)?;
            }
            for instance in &object.instances {
                write!(f, ",<{prefix}/{}/{instance}>", object.id)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(id: Id, version: Option<&str>, instances: &[Id]) -> RegisteredObject {
        RegisteredObject {
            id,
            version: version.map(|version| version.parse().unwrap()),
            instances: instances.to_vec(),
        }
    }

    fn read(text: &str) -> ObjectList {
        ObjectList::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_registration_is_read_and_written_alike() {
        for text in [
            "</>;rt=\"oma.lwm2m\";ct=\"60 110 112 11542\",</1/0>,</3/0>,</5>,</3303/0>,</3303/1>,</10350>;ver=1.1,</10350/0>",
            "</lwm2m>;rt=\"oma.lwm2m\";ct=110,</lwm2m/1/0>,</lwm2m/44>;ver=2.2,</lwm2m/44/3>",
            "</>;rt=\"oma.lwm2m\"",
        ] {
            assert_eq!(read(text).to_string(), text);
        }
        let list = read(
            "</>;rt=\"oma.lwm2m\";ct=\"60 110\",</5>,</3303/1>,</3303/0>,</10350>;ver=1.1,</10350/0>",
        );
        assert_eq!(
            list,
            ObjectList {
                alternate: None,
                formats: vec![60, 110],
                objects: vec![
                    object(5, None, &[]),
                    object(3303, None, &[0, 1]),
                    object(10350, Some("1.1"), &[0]),
                ],
                ignored: 0,
            }
        );
    }

    // conformance: P24
    #[test]
    fn a_version_stands_at_the_object_or_at_an_instance_quoted_or_not() {
        for text in [
            "</44>;ver=2.2,</44/0>",
            "</44>;ver=\"2.2\",</44/0>",
            "</44/0>;ver=2.2",
            "</44/0>;ver=1.1,</44>;ver=2.2",
        ] {
            assert_eq!(
                read(text).objects,
                [object(44, Some("2.2"), &[0])],
                "{text}"
            );
        }
        assert_eq!(
            read("</44>;ver=two,</44/0>").objects,
            [object(44, None, &[0])]
        );
    }

    // conformance: P24
    #[test]
    fn a_list_without_the_root_link_or_in_disorder_is_accepted() {
        let list = read("</3303/1/>, </3303/0>,</3303/1>,</1/0>");
        assert_eq!(
            list.objects,
            [object(1, None, &[0]), object(3303, None, &[0, 1])]
        );
        assert_eq!((list.alternate, list.formats), (None, vec![]));
        assert_eq!(read("</>;ct=112,</1/0>").formats, [112]);
        assert_eq!(read(""), ObjectList::default());
    }

    #[test]
    fn what_is_no_registered_object_is_counted_and_left_out() {
        let list =
            read("</0/0>,</21/0>,</23>,</3/0/9>,</.well-known/core>,</65535/0>,<3/1>,</3/0>");
        assert_eq!(list.objects, [object(3, None, &[0])]);
        assert_eq!(list.ignored, 7);
    }

    #[test]
    fn instances_come_and_go_and_lists_are_joined() {
        let mut list = read("</>;ct=110,</1/0>,</16>");
        assert!(list.insert(16, 2) && list.insert(16, 0) && !list.insert(16, 2));
        assert!(list.insert(5, 0) && list.remove(1, 0) && !list.remove(1, 0));
        assert_eq!(
            list.to_string(),
            "</>;rt=\"oma.lwm2m\";ct=110,</1>,</5/0>,</16/0>,</16/2>"
        );
        list.merge(&read("</>;ct=112,</4/0>,</16/1>"));
        assert_eq!(
            list.to_string(),
            "</>;rt=\"oma.lwm2m\";ct=110,</1>,</4/0>,</5/0>,</16/0>,</16/1>,</16/2>"
        );
    }

    // conformance: P35
    #[test]
    fn the_alternate_path_is_taken_off() {
        let list = read("</a/b>;rt=\"x oma.lwm2m\";ct=110,</a/b/3/0>,</3/1>,</a/bc/3/2>,</a>");
        assert_eq!(list.alternate.as_deref(), Some("/a/b"));
        assert_eq!(list.objects, [object(3, None, &[0])]);
        assert_eq!(list.ignored, 3);
        // An alternate path that no object has.
        let list = read("</lwm2m>;rt=\"oma.lwm2m\",</1/0>,</3/0>");
        assert_eq!(list.alternate.as_deref(), Some("/lwm2m"));
        assert_eq!(list.objects, [object(1, None, &[0]), object(3, None, &[0])]);
        assert_eq!(list.ignored, 0);
    }
}
