//! What a Register or Update says (LwM2M Core 1.1 §6.2).

use std::time::Duration;

use crate::coap::{Code, Request, Response};
use crate::lwm2m::model::Version;
use crate::lwm2m::{ContentFormat, ObjectList, link};

/// The longest endpoint name that is accepted, in bytes.
pub(super) const ENDPOINT_MAX: usize = 255;

/// The lifetime of a client that names none (LwM2M 1.0 §5.3.1).
const DEFAULT_LIFETIME: u32 = 86_400;

/// The content of a Register.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    /// Endpoint Client Name, as sent.
    pub endpoint: String,
    /// The enabler version: 1.0, 1.1 or 1.2.
    pub version: Version,
    /// What an Update may change as well.
    pub terms: Terms,
    /// The names of object lists that it counts on being known (`pid`).
    pub profiles: Vec<String>,
    /// The objects, instances and formats of the client, if it lists any.
    pub objects: Option<ObjectList>,
}

/// The content of an Update.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// What changes of the terms.
    pub terms: Terms,
    /// The names of object lists (`pid`).
    pub profiles: Vec<String>,
    /// The complete new list, if there is one.
    pub objects: Option<ObjectList>,
}

/// The parameters that Register sets and Update may change.
#[derive(Clone, Debug, Default, PartialEq, minicbor::Encode, minicbor::Decode)]
pub struct Terms {
    /// Lifetime in seconds; 0 is endless.
    #[n(0)]
    pub lifetime: Option<u32>,
    /// Binding, `U` when none is named.
    #[n(1)]
    pub binding: Option<String>,
    /// Queue mode: `Q` of LwM2M 1.1, or the letter in the binding of 1.0.
    #[n(2)]
    pub queue_mode: Option<bool>,
}

impl Terms {
    /// The lifetime that counts; `None` is endless.
    pub fn lifetime(&self) -> Option<Duration> {
        match self.lifetime.unwrap_or(DEFAULT_LIFETIME) {
            0 => None,
            seconds => Some(Duration::from_secs(u64::from(seconds))),
        }
    }

    /// Takes over what an Update names. Whether anything is not what it was.
    pub(super) fn change(&mut self, update: Self) -> bool {
        let before = self.clone();
        self.lifetime = update.lifetime.or(self.lifetime);
        self.binding = update.binding.or_else(|| self.binding.take());
        self.queue_mode = update.queue_mode.or(self.queue_mode);
        *self != before
    }
}

/// Why a Register or Update is refused: the code for the client, the sentence for the operator.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// The response code.
    pub code: Code,
    /// What is wrong, for a person.
    pub detail: String,
    /// Whether the client is told what is wrong.
    pub told: bool,
}

impl Refusal {
    /// A refusal with a reason.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            told: true,
        }
    }

    /// A refusal with a reason for the operator alone: who is not let in does not learn who would
    /// be, and a forged address is not sent more than a code.
    pub fn untold(code: Code, detail: impl Into<String>) -> Self {
        Self {
            told: false,
            ..Self::new(code, detail)
        }
    }

    /// The answer to the client; the reason travels as diagnostic payload (RFC 7252 §5.5.2).
    pub fn to_response(&self) -> Response {
        let detail = self.told.then(|| self.detail.clone().into_bytes());
        Response {
            payload: detail.unwrap_or_default(),
            ..Response::new(self.code)
        }
    }
}

/// The Uri-Query arguments: an unordered set of which the unknown ones are tolerated.
#[derive(Default)]
struct Parameters<'a> {
    endpoint: Option<&'a str>,
    version: Option<&'a str>,
    lifetime: Option<&'a str>,
    binding: Option<&'a str>,
    queue: bool,
    profiles: Option<&'a str>,
}

impl<'a> Parameters<'a> {
    fn parse(query: &'a [String]) -> Self {
        let mut parameters = Self::default();
        for argument in query {
            let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
            match name {
                "ep" => parameters.endpoint = Some(value),
                "lwm2m" => parameters.version = Some(value),
                "lt" => parameters.lifetime = Some(value),
                "b" => parameters.binding = Some(value),
                "Q" => parameters.queue = true,
                "pid" => parameters.profiles = Some(value),
                _ => {}
            }
        }
        parameters
    }

    /// Several stand in quotation marks, with commas between them.
    fn profiles(&self) -> Vec<String> {
        let text = self.profiles.unwrap_or_default().trim_matches('"');
        let ids = text.split(',').map(str::trim);
        ids.filter(|id| !id.is_empty()).map(str::to_owned).collect()
    }

    fn terms(&self) -> Result<Terms, Refusal> {
        let lifetime = self
            .lifetime
            .map(|text| {
                text.parse().map_err(|_| {
                    Refusal::new(
                        Code::BAD_REQUEST,
                        format!("lt={} is not a number of seconds", text.escape_debug()),
                    )
                })
            })
            .transpose()?;
        let in_binding = self.binding.map(|binding| binding.contains('Q'));
        Ok(Terms {
            lifetime,
            binding: self.binding.map(str::to_owned),
            queue_mode: if self.queue { Some(true) } else { in_binding },
        })
    }
}

/// Reads a Register.
///
/// Parameters may come in any order, quoted or bare, and unknown ones are ignored. An enabler
/// version that we do not serve gets 4.12, because clients step down on that code alone.
///
/// A client may leave its name to what it has proven to be (LwM2M Core 1.1 §6.2.1): that is
/// `proven`.
pub fn parse_register(request: &Request, proven: Option<&str>) -> Result<Register, Refusal> {
    let parameters = Parameters::parse(&request.query);
    let endpoint = parameters.endpoint.or(proven).unwrap_or_default();
    if endpoint.is_empty() {
        return Err(Refusal::new(Code::BAD_REQUEST, "no endpoint name (ep)"));
    }
    if endpoint.len() > ENDPOINT_MAX {
        return Err(Refusal::new(
            Code::BAD_REQUEST,
            format!("the endpoint name is longer than {ENDPOINT_MAX} bytes"),
        ));
    }
    let version = parse_version(parameters.version)?;
    let terms = parameters.terms()?;
    let (profiles, objects) = (parameters.profiles(), parse_objects(request)?);
    if profiles.is_empty() && objects.is_none() {
        return Err(Refusal::new(Code::BAD_REQUEST, "no object list"));
    }
    Ok(Register {
        endpoint: endpoint.to_owned(),
        version,
        terms,
        profiles,
        objects,
    })
}

/// Reads an Update.
pub fn parse_update(request: &Request) -> Result<Update, Refusal> {
    let parameters = Parameters::parse(&request.query);
    Ok(Update {
        terms: parameters.terms()?,
        profiles: parameters.profiles(),
        objects: parse_objects(request)?,
    })
}

fn parse_version(text: Option<&str>) -> Result<Version, Refusal> {
    let text = text.unwrap_or("1.0").trim_matches('"');
    match text {
        "1.0" => Ok(Version { major: 1, minor: 0 }),
        "1.1" => Ok(Version { major: 1, minor: 1 }),
        "1.2" => Ok(Version { major: 1, minor: 2 }),
        _ => Err(Refusal::new(
            Code::PRECONDITION_FAILED,
            format!(
                "LwM2M version {} is not served; 1.0, 1.1 and 1.2 are",
                text.escape_debug()
            ),
        )),
    }
}

fn parse_objects(request: &Request) -> Result<Option<ObjectList>, Refusal> {
    if request.payload.is_empty() {
        return Ok(None);
    }
    match request.content_format.map(ContentFormat) {
        None | Some(ContentFormat::LINK_FORMAT) => {}
        Some(other) => {
            return Err(Refusal::new(
                Code::UNSUPPORTED_CONTENT_FORMAT,
                format!("the object list comes as link-format (40), not {other}"),
            ));
        }
    }
    let links = link::parse(&request.payload).map_err(|error| {
        Refusal::new(
            Code::BAD_REQUEST,
            format!("the object list is not link-format: {error}"),
        )
    })?;
    Ok(Some(ObjectList::from_links(&links)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(query: &[&str], payload: &str) -> Result<Register, Refusal> {
        let mut request = Request::new(Code::POST, ["rd"]);
        request.query = query.iter().map(ToString::to_string).collect();
        request.payload = payload.into();
        request.content_format = Some(40);
        parse_register(&request, None)
    }

    #[test]
    fn parameters_come_in_any_order_and_unknown_ones_are_ignored() {
        let register = register(
            &["imei=3525", "b=U", "lwm2m=1.1", "Q", "lt=300", "ep=dev1"],
            "</1/0>,</3/0>",
        )
        .unwrap();
        assert_eq!(register.endpoint, "dev1");
        assert_eq!(register.version, Version { major: 1, minor: 1 });
        assert_eq!(register.terms.lifetime(), Some(Duration::from_secs(300)));
        assert_eq!(register.terms.queue_mode, Some(true));
        assert_eq!(register.objects.unwrap().objects.len(), 2);
    }

    // conformance: 1.2-int-110
    #[test]
    fn profile_ids_are_one_or_several_in_quotation_marks() {
        for (query, expected) in [
            ("pid=6:27354b9a", &["6:27354b9a"][..]),
            ("pid=\"oma:1, v:2\"", &["oma:1", "v:2"]),
        ] {
            let register = register(&["ep=e", query], "").unwrap();
            assert_eq!(register.profiles, expected);
            assert_eq!(register.objects, None);
        }
    }

    // conformance: P38
    #[test]
    fn a_query_is_taken_as_it_is_and_what_comes_twice_counts_last() {
        let register = register(
            &["lt=60", "ep=urn%3adev:%zz ü", "Q", "b=UQ", "lt=90"],
            "</3/0>",
        )
        .unwrap();
        assert_eq!(register.endpoint, "urn%3adev:%zz ü");
        assert_eq!(register.terms.lifetime, Some(90));
        assert_eq!(register.terms.queue_mode, Some(true));
    }

    #[test]
    fn a_client_of_1_0_may_leave_out_version_lifetime_and_binding() {
        let register = register(&["ep=old"], "</3/0>").unwrap();
        assert_eq!(register.version, Version { major: 1, minor: 0 });
        assert_eq!(register.terms.lifetime(), Some(Duration::from_secs(86_400)));
        assert_eq!(register.terms.queue_mode, None);
    }

    #[test]
    fn queue_mode_of_1_0_stands_in_the_binding() {
        assert_eq!(
            register(&["ep=e", "b=UQ"], "</3/0>")
                .unwrap()
                .terms
                .queue_mode,
            Some(true)
        );
        assert_eq!(
            register(&["ep=e", "b=U"], "</3/0>")
                .unwrap()
                .terms
                .queue_mode,
            Some(false)
        );
        assert_eq!(
            register(&["ep=e", "Q=", "b=U"], "</3/0>")
                .unwrap()
                .terms
                .queue_mode,
            Some(true)
        );
    }

    #[test]
    fn a_client_may_leave_its_name_to_its_identity() {
        let mut request = Request::new(Code::POST, ["rd"]);
        request.payload = "</3/0>".into();
        let register = parse_register(&request, Some("dev1")).unwrap();
        assert_eq!(register.endpoint, "dev1");
        assert!(parse_register(&request, None).is_err());
    }

    #[test]
    fn lifetime_zero_is_endless() {
        assert_eq!(
            register(&["ep=e", "lt=0"], "</3/0>")
                .unwrap()
                .terms
                .lifetime(),
            None
        );
    }

    #[test]
    fn an_unknown_version_gets_precondition_failed() {
        for version in ["lwm2m=1.3", "lwm2m=2.0", "lwm2m=1.1.1"] {
            assert_eq!(
                register(&["ep=e", version], "</3/0>").unwrap_err().code,
                Code::PRECONDITION_FAILED,
                "{version}"
            );
        }
        assert!(register(&["ep=e", "lwm2m=\"1.0\""], "</3/0>").is_ok());
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_its_code() {
        assert_eq!(
            register(&["lt=60"], "</3/0>").unwrap_err().code,
            Code::BAD_REQUEST
        );
        assert_eq!(
            register(&["ep="], "</3/0>").unwrap_err().code,
            Code::BAD_REQUEST
        );
        assert_eq!(
            register(&["ep=e", "lt=soon"], "</3/0>").unwrap_err().code,
            Code::BAD_REQUEST
        );
        assert_eq!(register(&["ep=e"], "").unwrap_err().code, Code::BAD_REQUEST);
        assert_eq!(
            register(&["ep=e"], "</3/0>,<").unwrap_err().code,
            Code::BAD_REQUEST
        );
        let long = format!("ep={}", "x".repeat(256));
        assert_eq!(
            register(&[&long], "</3/0>").unwrap_err().code,
            Code::BAD_REQUEST
        );
    }
}
