//! Notification attributes (LwM2M Core 1.1 §5.1.2, 1.2 §7.3.2).

/// When an observed node is reported. What is not set is not said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NotificationAttributes {
    /// Least time between two notifications, in seconds.
    pub pmin: Option<u32>,
    /// Most time between two notifications, in seconds; 0 is no limit.
    pub pmax: Option<u32>,
    /// Report when the value crosses this, in either direction.
    pub gt: Option<f64>,
    /// Report when the value crosses this, in either direction.
    pub lt: Option<f64>,
    /// Report when the value has moved this far since it was last reported.
    pub st: Option<f64>,
    /// Least time between two evaluations, in seconds; since LwM2M 1.1.
    pub epmin: Option<u32>,
    /// Most time between two evaluations, in seconds; since LwM2M 1.1.
    pub epmax: Option<u32>,
    /// Report a Boolean on this edge only; since LwM2M 1.2.
    pub edge: Option<Edge>,
    /// Whether notifications are confirmable; since LwM2M 1.2.
    pub con: Option<bool>,
    /// How many notifications the device keeps while the server is away; since LwM2M 1.2.
    pub hqmax: Option<u32>,
}

/// The change of a Boolean that is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// True becomes false.
    Falling,
    /// False becomes true.
    Rising,
}

/// Why attributes are refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AttributeError {
    /// There is no attribute of this name that a server may set.
    #[error("{0:?} is no notification attribute")]
    Unknown(String),
    /// The attribute is there twice.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// The value is not what the attribute takes.
    #[error("{name} is {expected}, not {value:?}")]
    Value {
        /// The attribute.
        name: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What was given.
        value: String,
    },
    /// A step is negative.
    #[error("st = {0} is less than 0")]
    NegativeStep(f64),
    /// A number is NaN or infinite.
    #[error("{0} is not a finite number")]
    NotFinite(&'static str),
    /// The longest time is shorter than the shortest.
    #[error("pmax = {pmax} is less than pmin = {pmin}")]
    Period {
        /// As given.
        pmin: u32,
        /// As given.
        pmax: u32,
    },
    /// The longest time is not longer than the shortest.
    #[error("epmax = {epmax} is not greater than epmin = {epmin}")]
    EvaluationPeriod {
        /// As given.
        epmin: u32,
        /// As given.
        epmax: u32,
    },
    /// The lower threshold is not below the upper one.
    #[error("lt = {lt} is not less than gt = {gt}")]
    Thresholds {
        /// As given.
        lt: f64,
        /// As given.
        gt: f64,
    },
    /// The steps do not fit between the thresholds.
    #[error("lt + 2 st = {lt} + 2 * {st} is not less than gt = {gt}")]
    Step {
        /// As given.
        lt: f64,
        /// As given.
        gt: f64,
        /// As given.
        st: f64,
    },
}

const NAMES: [&str; 10] = [
    "pmin", "pmax", "gt", "lt", "st", "epmin", "epmax", "edge", "con", "hqmax",
];

impl NotificationAttributes {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `name=value` for each that is set, as the query of a Write-Attributes or, since LwM2M 1.2,
    /// of an Observe.
    pub fn to_queries(&self) -> Vec<String> {
        let queries = NAMES.iter().filter_map(|name| {
            let value = self.value(name)?;
            Some(format!("{name}={value}"))
        });
        queries.collect()
    }

    /// The value of an attribute, as it stands in a query.
    fn value(&self, name: &str) -> Option<String> {
        let flag = |value: bool| if value { "1" } else { "0" }.to_owned();
        // `Display` of a floating point number never writes an exponent.
        match name {
            "pmin" => self.pmin.map(|value| value.to_string()),
            "pmax" => self.pmax.map(|value| value.to_string()),
            "gt" => self.gt.map(|value| value.to_string()),
            "lt" => self.lt.map(|value| value.to_string()),
            "st" => self.st.map(|value| value.to_string()),
            "epmin" => self.epmin.map(|value| value.to_string()),
            "epmax" => self.epmax.map(|value| value.to_string()),
            "edge" => self.edge.map(|edge| flag(edge == Edge::Rising)),
            "con" => self.con.map(flag),
            "hqmax" => self.hqmax.map(|value| value.to_string()),
            _ => None,
        }
    }

    /// The attributes of a query.
    ///
    /// # Errors
    ///
    /// As of [`Self::changed_by`].
    pub fn from_queries(
        queries: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, AttributeError> {
        Self::default().changed_by(queries)
    }

    /// These attributes after a Write-Attributes: `name=value` sets one, `name` alone takes it
    /// away, what is not named stays (LwM2M Core 1.1 §5.1.2).
    ///
    /// # Errors
    ///
    /// When a name is unknown or there twice, a value is none for its name, or the result breaks
    /// a rule of [`Self::validate`].
    pub fn changed_by(
        &self,
        queries: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, AttributeError> {
        let mut changed = self.clone();
        let mut seen = [false; NAMES.len()];
        for query in queries {
            let query = query.as_ref();
            let (name, value) = match query.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (query, None),
            };
            let known = NAMES
                .iter()
                .zip(&mut seen)
                .find(|(known, _)| **known == name);
            let Some((&name, seen)) = known else {
                return Err(AttributeError::Unknown(name.to_owned()));
            };
            if std::mem::replace(seen, true) {
                return Err(AttributeError::Twice(name));
            }
            changed.set(name, value.filter(|value| !value.is_empty()))?;
        }
        changed.validate()?;
        Ok(changed)
    }

    /// Takes from the node above what is not set here (LwM2M Core 1.1 §5.1.2). The result may
    /// break a rule of [`Self::validate`] though neither does alone.
    pub fn inherit(&mut self, above: &Self) {
        self.pmin = self.pmin.or(above.pmin);
        self.pmax = self.pmax.or(above.pmax);
        self.gt = self.gt.or(above.gt);
        self.lt = self.lt.or(above.lt);
        self.st = self.st.or(above.st);
        self.epmin = self.epmin.or(above.epmin);
        self.epmax = self.epmax.or(above.epmax);
        self.edge = self.edge.or(above.edge);
        self.con = self.con.or(above.con);
        self.hqmax = self.hqmax.or(above.hqmax);
    }

    fn set(&mut self, name: &'static str, value: Option<&str>) -> Result<(), AttributeError> {
        match name {
            "pmin" => self.pmin = count(name, value)?,
            "pmax" => self.pmax = count(name, value)?,
            "gt" => self.gt = number(name, value)?,
            "lt" => self.lt = number(name, value)?,
            "st" => self.st = number(name, value)?,
            "epmin" => self.epmin = count(name, value)?,
            "epmax" => self.epmax = count(name, value)?,
            "edge" => {
                self.edge = flag(name, value)?.map(|rising| match rising {
                    true => Edge::Rising,
                    false => Edge::Falling,
                });
            }
            "con" => self.con = flag(name, value)?,
            "hqmax" => self.hqmax = count(name, value)?,
            _ => return Err(AttributeError::Unknown(name.to_owned())),
        }
        Ok(())
    }

    /// Checks that the attributes agree with each other (LwM2M Core 1.1 §5.1.2).
    ///
    /// # Errors
    ///
    /// The first rule broken.
    pub fn validate(&self) -> Result<(), AttributeError> {
        for (name, value) in [("gt", self.gt), ("lt", self.lt), ("st", self.st)] {
            if value.is_some_and(|value| !value.is_finite()) {
                return Err(AttributeError::NotFinite(name));
            }
        }
        if let Some(st) = self.st
            && st < 0.0
        {
            return Err(AttributeError::NegativeStep(st));
        }
        if let (Some(pmin), Some(pmax)) = (self.pmin, self.pmax)
            && pmax != 0
            && pmax < pmin
        {
            return Err(AttributeError::Period { pmin, pmax });
        }
        if let (Some(epmin), Some(epmax)) = (self.epmin, self.epmax)
            && epmax <= epmin
        {
            return Err(AttributeError::EvaluationPeriod { epmin, epmax });
        }
        if let (Some(lt), Some(gt)) = (self.lt, self.gt) {
            if lt >= gt {
                return Err(AttributeError::Thresholds { lt, gt });
            }
            if let Some(st) = self.st
                && lt + 2.0 * st >= gt
            {
                return Err(AttributeError::Step { lt, gt, st });
            }
        }
        Ok(())
    }
}

/// What a Write-Attributes changes: what it sets, and what it takes away (LwM2M Core 1.1 §6.3.4).
/// What is in neither stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttributeChange {
    /// What is set.
    pub set: NotificationAttributes,
    /// The names that are taken away.
    unset: Vec<&'static str>,
}

impl AttributeChange {
    /// A change as it stands in a query: `name=value` sets, `name` alone takes away.
    ///
    /// # Errors
    ///
    /// As of [`NotificationAttributes::changed_by`].
    pub fn from_queries(
        queries: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, AttributeError> {
        let queries: Vec<_> = queries.into_iter().collect();
        let set = NotificationAttributes::from_queries(&queries)?;
        let is_unset = |name: &&&str| {
            let mut queries = queries.iter().map(AsRef::as_ref);
            queries.any(|query| query.strip_suffix('=').unwrap_or(query) == **name)
        };
        let unset = NAMES.iter().filter(is_unset).copied().collect();
        Ok(Self { set, unset })
    }

    /// What makes `after` of `before`.
    pub fn between(before: &NotificationAttributes, after: &NotificationAttributes) -> Self {
        let mut set = NotificationAttributes::default();
        let mut unset = Vec::new();
        for name in NAMES {
            match (before.value(name), after.value(name)) {
                (before, Some(value)) if before.as_ref() != Some(&value) => {
                    // It was written by ourselves, so it can be read.
                    let _ = set.set(name, Some(&value));
                }
                (Some(_), None) => unset.push(name),
                _ => {}
            }
        }
        Self { set, unset }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.unset.is_empty()
    }

    /// The query of the Write-Attributes.
    pub fn to_queries(&self) -> Vec<String> {
        let mut queries = self.set.to_queries();
        queries.extend(self.unset.iter().map(ToString::to_string));
        queries
    }
}

impl From<NotificationAttributes> for AttributeChange {
    fn from(set: NotificationAttributes) -> Self {
        let unset = Vec::new();
        Self { set, unset }
    }
}

fn count(name: &'static str, value: Option<&str>) -> Result<Option<u32>, AttributeError> {
    const EXPECTED: &str = "a whole number from 0 to 4294967295";
    parsed(name, value, EXPECTED, |value| {
        let is_plain = value.bytes().all(|byte| byte.is_ascii_digit());
        value.parse().ok().filter(|_| is_plain)
    })
}

/// A decimal number; a sign and an exponent are accepted, though the grammar has neither.
fn number(name: &'static str, value: Option<&str>) -> Result<Option<f64>, AttributeError> {
    parsed(name, value, "a number", |value| {
        // Rust also reads "inf" and "nan".
        let is_plain = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
        let number = value.parse().ok().filter(|number: &f64| number.is_finite());
        number.filter(|_| value.bytes().all(is_plain))
    })
}

fn flag(name: &'static str, value: Option<&str>) -> Result<Option<bool>, AttributeError> {
    parsed(name, value, "0 or 1", |value| match value {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    })
}

fn parsed<T>(
    name: &'static str,
    value: Option<&str>,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, AttributeError> {
    let Some(value) = value else {
        return Ok(None);
    };
    match parse(value) {
        Some(parsed) => Ok(Some(parsed)),
        None => Err(AttributeError::Value {
            name,
            expected,
            value: value.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<NotificationAttributes, AttributeError> {
        NotificationAttributes::from_queries(text.split('&').filter(|query| !query.is_empty()))
    }

    #[test]
    fn queries_are_read_and_written_alike() {
        for text in [
            "",
            "pmin=5&pmax=60",
            "pmin=0&pmax=0&gt=85.5&lt=-20&st=10&epmin=1&epmax=5&edge=1&con=0&hqmax=3",
            "edge=0&con=1",
        ] {
            let attributes = read(text).unwrap();
            assert_eq!(attributes.to_queries().join("&"), text);
            assert_eq!(attributes.is_empty(), text.is_empty());
        }
    }

    #[test]
    fn numbers_are_written_as_plain_decimals() {
        let attributes = NotificationAttributes {
            gt: Some(1e21),
            lt: Some(-2.5e-7),
            st: Some(1.0),
            ..NotificationAttributes::default()
        };
        assert_eq!(
            attributes.to_queries(),
            ["gt=1000000000000000000000", "lt=-0.00000025", "st=1"]
        );
        assert_eq!(read("gt=1e3").unwrap().gt, Some(1000.0));
    }

    #[test]
    fn a_name_alone_takes_the_attribute_away_and_others_stay() {
        let before = read("pmin=5&pmax=60&gt=3").unwrap();
        let after = before.changed_by(["pmin", "gt=", "st=1"]).unwrap();
        assert_eq!(after.to_queries(), ["pmax=60", "st=1"]);
    }

    // conformance: 1.1-int-260
    #[test]
    fn a_change_says_what_it_takes_away() {
        let change = AttributeChange::from_queries(["gt=3", "pmin", "st="]).unwrap();
        assert_eq!(change.to_queries(), ["gt=3", "pmin", "st"]);
        let (before, after) = (read("pmin=5&pmax=60&gt=3"), read("pmax=60&gt=4&con=1"));
        let change = AttributeChange::between(&before.unwrap(), &after.unwrap());
        assert_eq!(change.to_queries(), ["gt=4", "con=1", "pmin"]);
        let same = read("pmax=60").unwrap();
        assert!(AttributeChange::between(&same, &same).is_empty());
    }

    // conformance: P29
    #[test]
    fn what_is_refused_says_why() {
        for (text, message) in [
            (
                "pmin=x",
                "pmin is a whole number from 0 to 4294967295, not \"x\"",
            ),
            (
                "pmax=+1",
                "pmax is a whole number from 0 to 4294967295, not \"+1\"",
            ),
            (
                "pmax=4294967296",
                "pmax is a whole number from 0 to 4294967295, not \"4294967296\"",
            ),
            ("gt=inf", "gt is a number, not \"inf\""),
            ("gt=1e999", "gt is a number, not \"1e999\""),
            ("edge=2", "edge is 0 or 1, not \"2\""),
            ("con=true", "con is 0 or 1, not \"true\""),
            ("dim=2", "\"dim\" is no notification attribute"),
            ("pmin=1&pmin=2", "pmin is given twice"),
            ("pmin=60&pmax=5", "pmax = 5 is less than pmin = 60"),
            ("epmin=5&epmax=5", "epmax = 5 is not greater than epmin = 5"),
            ("lt=5&gt=5", "lt = 5 is not less than gt = 5"),
            (
                "lt=1&gt=5&st=2",
                "lt + 2 st = 1 + 2 * 2 is not less than gt = 5",
            ),
            ("st=-1", "st = -1 is less than 0"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), message, "{text}");
        }
        for text in [
            "pmin=60&pmax=60",
            "pmin=60&pmax=0",
            "lt=1&gt=5&st=1.9",
            "st=0",
        ] {
            assert!(read(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn the_set_as_a_whole_is_checked_after_a_change() {
        let before = read("pmax=60").unwrap();
        assert_eq!(
            before.changed_by(["pmin=61"]),
            Err(AttributeError::Period { pmin: 61, pmax: 60 })
        );
        assert!(before.changed_by(["pmin=61", "pmax"]).is_ok());
    }

    #[test]
    fn a_node_inherits_what_it_does_not_have_itself() {
        let mut node = read("pmin=5&gt=3").unwrap();
        node.inherit(&read("pmin=9&pmax=60&con=1").unwrap());
        assert_eq!(node.to_queries(), ["pmin=5", "pmax=60", "gt=3", "con=1"]);
    }
}
