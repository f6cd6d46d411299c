//! What a device asks: Bootstrap-Request and Bootstrap-Pack-Request (LwM2M Core 1.1 §6.1.7.1,
//! Core 1.2 §6.1.7.8).

use crate::coap::{Code, Request};
use crate::lwm2m::ContentFormat;
use crate::lwm2m::model::Version;
use crate::lwm2m::path::{Id, Path};
use crate::server::registration::{ENDPOINT_MAX, Refusal};

/// The formats that `pct` may name (LwM2M Core 1.2 §6.1.7.1).
const PREFERRED: [ContentFormat; 4] = [
    ContentFormat::SENML_CBOR,
    ContentFormat::SENML_JSON,
    ContentFormat::TLV,
    ContentFormat::LWM2M_CBOR,
];

/// The content of a Bootstrap-Request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ask {
    /// `ep`; absent where the transport knows who it is.
    pub(super) endpoint: Option<String>,
    /// `pct`, since LwM2M 1.1.
    pub(super) preferred: Option<ContentFormat>,
}

impl Ask {
    /// Reads `POST /bs?ep=…&pct=…`.
    pub(super) fn parse(request: &Request) -> Result<Self, Refusal> {
        let preferred = argument(request, "pct")
            .map(|text| {
                let number = text.trim_matches('"').parse().map_err(|_| {
                    Refusal::new(
                        Code::BAD_REQUEST,
                        format!(
                            "pct={} is not the number of a content format",
                            text.escape_debug()
                        ),
                    )
                })?;
                let format = ContentFormat(number);
                if PREFERRED.contains(&format) {
                    return Ok(format);
                }
                Err(Refusal::new(
                    Code::UNSUPPORTED_CONTENT_FORMAT,
                    format!("pct={number} is not served; 112, 110, 11542 and 11544 are"),
                ))
            })
            .transpose()?;
        Ok(Self {
            endpoint: endpoint(request)?,
            preferred,
        })
    }

    /// The version of LwM2M that the request is of: `pct` came with 1.1, LwM2M CBOR with 1.2.
    pub(super) fn version(&self) -> Version {
        match self.preferred {
            None => Version::V1_0,
            Some(ContentFormat::LWM2M_CBOR) => Version::V1_2,
            Some(_) => Version::V1_1,
        }
    }
}

/// The content of a Bootstrap-Pack-Request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AskPack {
    /// `ep`.
    pub(super) endpoint: Option<String>,
    /// The format of the pack.
    pub(super) format: ContentFormat,
    /// Instances of object 0 in `acc`: the account that the device came with.
    pub(super) accounts: Vec<Id>,
}

impl AskPack {
    /// Reads `GET /bspack?ep=…&acc=</0/0>`.
    pub(super) fn parse(request: &Request) -> Result<Self, Refusal> {
        let format = request
            .accept
            .map_or(ContentFormat::SENML_CBOR, ContentFormat);
        let carries = matches!(
            format,
            ContentFormat::SENML_CBOR | ContentFormat::SENML_JSON | ContentFormat::LWM2M_CBOR
        );
        if !carries {
            return Err(Refusal::new(
                Code::NOT_ACCEPTABLE,
                format!("a Bootstrap-Pack is not served in {format}; in 112, 110 and 11544 it is"),
            ));
        }
        let accounts = argument(request, "acc")
            .unwrap_or_default()
            .split(',')
            .filter_map(|link| link.trim().strip_prefix('<')?.strip_suffix('>'))
            .filter_map(|target| target.parse::<Path>().ok())
            .filter(|path| path.object_id() == Some(super::profile::SECURITY))
            .filter_map(|path| path.instance_id())
            .collect();
        Ok(Self {
            endpoint: endpoint(request)?,
            format,
            accounts,
        })
    }
}

/// The value of a Uri-Query argument.
fn argument<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.query.iter().find_map(|argument| {
        let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
        (key == name).then_some(value)
    })
}

fn endpoint(request: &Request) -> Result<Option<String>, Refusal> {
    let endpoint = argument(request, "ep").filter(|endpoint| !endpoint.is_empty());
    if endpoint.is_some_and(|endpoint| endpoint.len() > ENDPOINT_MAX) {
        return Err(Refusal::new(
            Code::BAD_REQUEST,
            format!("the endpoint name is longer than {ENDPOINT_MAX} bytes"),
        ));
    }
    Ok(endpoint.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(query: &[&str]) -> Result<Ask, Code> {
        let mut request = Request::new(Code::POST, ["bs"]);
        request.query = query.iter().map(ToString::to_string).collect();
        Ask::parse(&request).map_err(|refusal| refusal.code)
    }

    #[test]
    fn the_preferred_format_tells_the_version() {
        for (query, format, version) in [
            (&["ep=gw1"][..], None, Version::V1_0),
            (&["pct=112", "ep=gw1"], Some(112), Version::V1_1),
            (&["ep=gw1", "pct=11542", "x=y"], Some(11542), Version::V1_1),
            (&["ep=gw1", "pct=11544"], Some(11544), Version::V1_2),
        ] {
            let ask = ask(query).unwrap();
            assert_eq!(ask.endpoint.as_deref(), Some("gw1"));
            assert_eq!(ask.preferred, format.map(ContentFormat), "{query:?}");
            assert_eq!(ask.version(), version, "{query:?}");
        }
        assert_eq!(ask(&["pct=112"]).unwrap().endpoint, None);
    }

    #[test]
    fn a_format_that_bootstrap_does_not_know_is_refused() {
        for (query, code) in [
            ("pct=60", Code::UNSUPPORTED_CONTENT_FORMAT),
            ("pct=x", Code::BAD_REQUEST),
        ] {
            assert_eq!(ask(&["ep=gw1", query]), Err(code), "{query}");
        }
        let long = format!("ep={}", "x".repeat(256));
        assert_eq!(ask(&[&long]), Err(Code::BAD_REQUEST));
    }

    #[test]
    fn a_pack_request_names_its_own_account() {
        let mut request = Request::new(Code::GET, ["bspack"]);
        request.query = vec!["ep=gw1".into(), "acc=</0/2>,</21/0>".into()];
        let pack = AskPack::parse(&request).unwrap();
        assert_eq!((pack.format.0, &pack.accounts[..]), (112, &[2][..]));
        for (accept, code) in [(11542, Code::NOT_ACCEPTABLE), (60, Code::NOT_ACCEPTABLE)] {
            request.accept = Some(accept);
            assert_eq!(AskPack::parse(&request).unwrap_err().code, code);
        }
    }
}
