//! Nodes and values as people write them.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value as Json, json};

use crate::lwm2m::{Level, Path};

/// A node: its path, or the name of its signal.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// `/3/0/9`; `3/0/9` is meant so, too.
    Path(Path),
    /// `<inst>/<name>`
    Name(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_path = text.starts_with('/')
            || text
                .split('/')
                .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        if is_path {
            let absolute = format!("/{}", text.strip_prefix('/').unwrap_or(text));
            return absolute
                .parse()
                .map(Self::Path)
                .map_err(|error| format!("{error}; a path is /object/instance/resource"));
        }
        match text.split_once('/') {
            Some((instance, name))
                if !instance.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self::Name(text.to_owned()))
            }
            _ => Err(
                "neither a path, /3/0/9, nor the name of a signal, device-0/battery-level".into(),
            ),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// JSON; what is not JSON is text.
fn value(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// `KEY=VALUE …`; without a value it is null.
///
/// # Errors
///
/// What has no `=`.
pub fn values(texts: &[String]) -> Result<Map<String, Json>, String> {
    let assignment = |text: &String| match text.split_once('=') {
        Some((key, "")) if !key.is_empty() => Ok((key.to_owned(), Json::Null)),
        Some((key, text)) if !key.is_empty() => Ok((key.to_owned(), value(text))),
        _ => Err(format!("{}: it has to be NAME=VALUE", text.escape_debug())),
    };
    texts.iter().map(assignment).collect()
}

/// What to write where.
#[derive(Debug, PartialEq)]
pub struct Assignments(Vec<(Target, Json)>);

impl Assignments {
    /// `PATH=VALUE …`, or PATH and VALUE apart.
    ///
    /// # Errors
    ///
    /// A sentence about the first that is neither.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        if let [path, text] = texts
            && !path.contains('=')
        {
            let target = path.parse().map_err(|why| format!("{path}: {why}"))?;
            return Ok(Self(vec![(target, value(text))]));
        }
        let assignment = |text: &String| {
            let (path, text) = text
                .split_once('=')
                .ok_or_else(|| format!("{}: it has to be PATH=VALUE", text.escape_debug()))?;
            let target = path.parse().map_err(|why| format!("{path}: {why}"))?;
            Ok((target, value(text)))
        };
        texts
            .iter()
            .map(assignment)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The request for it, and its payload. Resources of one instance are one Write, those of several
    /// a Write-Composite; `replace` is for one target or one instance.
    ///
    /// # Errors
    ///
    /// A sentence when there is no such request.
    pub fn request(self, replace: bool) -> Result<(String, Json), String> {
        let mode = if replace { "replace" } else { "update" };
        let mut paths = Vec::new();
        let mut names = Map::new();
        for (target, value) in self.0 {
            match target {
                Target::Path(path) => paths.push((path, value)),
                Target::Name(name) => {
                    names.insert(name, value);
                }
            }
        }
        if !names.is_empty() {
            if !paths.is_empty() {
                return Err(
                    "name all of them or none: what is named is written as its mapping says".into(),
                );
            }
            if replace {
                return Err(
                    "--replace is for paths: an instance is replaced by its resources".into(),
                );
            }
            return Ok(("set".into(), json!({ "set": names })));
        }
        if let [(path, value)] = &paths[..]
            && (path.level() != Level::Instance || !value.is_object())
        {
            let mut body = json!({ "path": path.to_string(), "value": value });
            if replace {
                body["mode"] = mode.into();
            }
            return Ok(("lwm2m/write".into(), body));
        }
        let instance = paths.first().and_then(|(path, _)| instance_of(path));
        match instance {
            Some(instance) if paths.iter().all(|(path, _)| instance.contains(path)) => {
                let below = |(path, value): (Path, Json)| {
                    let inner = path.to_string();
                    let inner = inner
                        .strip_prefix(&format!("{instance}/"))
                        .map(str::to_owned);
                    inner.map(|inner| (inner, value))
                };
                let values: Option<Map<String, Json>> = paths.into_iter().map(below).collect();
                let values = values.ok_or("write resources, such as /1/0/2=10")?;
                let body = json!({ "path": instance.to_string(), "values": values, "mode": mode });
                Ok(("lwm2m/write".into(), body))
            }
            _ if replace => Err("--replace is for the resources of one instance".into()),
            _ => {
                let values: Map<String, Json> = paths
                    .into_iter()
                    .map(|(path, value)| (path.to_string(), value))
                    .collect();
                Ok(("lwm2m/write-composite".into(), json!({ "values": values })))
            }
        }
    }
}

fn instance_of(path: &Path) -> Option<Path> {
    match path.ids() {
        [object, instance, ..] => Some(Path::instance(*object, *instance)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(texts: &[&str], replace: bool) -> Result<(String, Json), String> {
        let texts: Vec<_> = texts.iter().map(ToString::to_string).collect();
        Assignments::parse(&texts)?.request(replace)
    }

    #[test]
    fn a_node_is_a_path_or_the_name_of_a_signal() {
        let path = Target::Path(Path::resource(3, 0, 9));
        assert_eq!("/3/0/9".parse(), Ok(path.clone()));
        assert_eq!("3/0/9".parse(), Ok(path));
        assert_eq!(
            "device-0/battery-level".parse(),
            Ok(Target::Name("device-0/battery-level".into()))
        );
        for text in ["", "reboot", "/3/x", "/3/0/9/1/2", "3//9", "a/"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn resources_of_one_instance_are_one_write_and_those_of_several_a_composite() {
        assert_eq!(
            request(&["/1/0/1=300"], false).unwrap(),
            (
                "lwm2m/write".into(),
                json!({ "path": "/1/0/1", "value": 300 })
            )
        );
        assert_eq!(
            request(&["/3/0/15", "Europe/Berlin"], false).unwrap(),
            (
                "lwm2m/write".into(),
                json!({ "path": "/3/0/15", "value": "Europe/Berlin" })
            )
        );
        assert_eq!(
            request(&["/1/0/2=10", "/1/0/3=60"], false).unwrap(),
            (
                "lwm2m/write".into(),
                json!({ "path": "/1/0", "values": { "2": 10, "3": 60 }, "mode": "update" })
            )
        );
        assert_eq!(
            request(&["/1/0/2=10", "/16/0/0/1=x"], false).unwrap(),
            (
                "lwm2m/write-composite".into(),
                json!({ "values": { "/1/0/2": 10, "/16/0/0/1": "x" } })
            )
        );
        assert!(request(&["/1/0/2=10", "/1/1/2=10"], true).is_err());
    }

    #[test]
    fn names_are_written_as_the_mapping_says_and_not_mixed_with_paths() {
        assert_eq!(
            request(&["light-control-0/on-off=true"], false).unwrap(),
            (
                "set".into(),
                json!({ "set": { "light-control-0/on-off": true } })
            )
        );
        assert!(request(&["light-control-0/on-off=true", "/1/0/2=1"], false).is_err());
        assert!(request(&["/1/0/2"], false).is_err());
    }
}
