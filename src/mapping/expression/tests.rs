use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// Signals that the expressions of these tests may name.
fn signals(name: &str, instance: Option<&str>) -> Result<Kind, Objection> {
    match (name, instance) {
        ("temperature", Some("air" | "probe")) | ("level", None) => Ok(Kind::Number),
        ("open", Some("door")) => Ok(Kind::Boolean),
        ("too-warm", None) => Ok(Kind::Boolean),
        ("state", None) => Ok(Kind::Text),
        ("thing", None) => Ok(Kind::Any),
        _ => Err(Objection {
            message: format!("there is no signal `{name}`"),
            hint: "did you mean `temperature`?".into(),
        }),
    }
}

fn scope() -> Scope<'static> {
    Scope {
        value: Some(Kind::Number),
        signals: &signals,
    }
}

fn parse(text: &str) -> Result<Expression, ExpressionError> {
    Expression::parse(text, &scope())
}

fn evaluate(text: &str, value: &Value) -> Option<Value> {
    let scope = Scope {
        value: Some(Kind::Any),
        signals: &signals,
    };
    let expression = Expression::parse(text, &scope).unwrap_or_else(|error| panic!("{error:?}"));
    expression
        .evaluate(
            Operand::of(value),
            &|index| match &*expression.references()[index].name {
                "temperature" => Operand::Float(-18.5),
                "open" => Operand::Boolean(true),
                "state" => Operand::Text("busy".into()),
                _ => Operand::Null,
            },
        )
        .into_value()
}

#[test]
fn expressions_give_what_they_say() {
    use Value::{Boolean, Float, Integer, UnsignedInteger};
    let text = |text: &str| Some(Value::String(text.to_owned()));
    for (expression, value, expected) in [
        ("value / 14.5038", Float(29.0076), Some(Float(2.0))),
        ("value * 2 + 1", Integer(20), Some(Integer(41))),
        ("1 + 2 * 3 - 4", Integer(0), Some(Integer(3))),
        ("(1 + 2) * 3", Integer(0), Some(Integer(9))),
        ("10 - 2 - 3", Integer(0), Some(Integer(5))),
        ("7 / 2", Integer(0), Some(Float(3.5))),
        ("7 % 4 * 2", Integer(0), Some(Integer(6))),
        ("-value", Integer(3), Some(Integer(-3))),
        ("- - 3", Integer(0), Some(Integer(3))),
        ("2 * -3", Integer(0), Some(Integer(-6))),
        ("1e3 + 1e+2 + 1e-1", Integer(0), Some(Float(1100.1))),
        ("min(value, 3, 2.5)", Integer(9), Some(Float(2.5))),
        ("max(value, 3)", Integer(9), Some(Integer(9))),
        ("abs(value)", Float(-1.5), Some(Float(1.5))),
        ("round(value)", Float(20.5), Some(Integer(21))),
        ("round(value)", Float(-20.5), Some(Integer(-21))),
        ("round(value, 1)", Float(-18.4372), Some(Float(-18.4))),
        ("value > 3 and value < 5", Integer(4), Some(Boolean(true))),
        ("not value == 4", Integer(4), Some(Boolean(false))),
        ("value == 4.0", Integer(4), Some(Boolean(true))),
        ("true or false and false", Integer(0), Some(Boolean(true))),
        ("if(value >= 2, 'hot', \"cold\")", Integer(1), text("cold")),
        (
            "'v' + text(value) + ' ' + text(true)",
            Float(1.5),
            text("v1.5 true"),
        ),
        ("state == 'busy'", Integer(0), Some(Boolean(true))),
        ("'a' < 'b'", Integer(0), Some(Boolean(true))),
        ("value", Value::Boolean(true), Some(Boolean(true))),
        ("temperature@air + 0.5", Integer(0), Some(Float(-18.0))),
        // Whole numbers keep every digit.
        (
            "value + 1",
            Integer(9_007_199_254_740_993),
            Some(Integer(9_007_199_254_740_994)),
        ),
        (
            "value - 1",
            UnsignedInteger(u64::MAX),
            Some(UnsignedInteger(u64::MAX - 1)),
        ),
    ] {
        assert_eq!(evaluate(expression, &value), expected, "{expression}");
    }
}

#[test]
fn what_cannot_be_calculated_is_null() {
    use Value::{Boolean, Float, Integer};
    let most = "170141183460469231731687303715884105727";
    for (expression, value) in [
        ("value / 0", Integer(1)),
        ("value / 0", Integer(0)),
        ("value % 0", Integer(1)),
        ("value % 0.0", Integer(1)),
        ("value * 1e300", Float(1e300)),
        ("value", Float(f64::NAN)),
        ("value + 1", Float(f64::INFINITY)),
        (&format!("value + {most}"), Integer(1)),
        (&format!("-value - {most}"), Integer(2)),
        ("value + 1", Boolean(true)),
        ("value + 1", Value::String("5".into())),
        ("value == 1", Value::String("1".into())),
        ("value + 1", Value::Opaque(vec![1])),
        ("thing + 1", Integer(0)),
        ("thing == thing", Integer(0)),
        ("not thing", Integer(0)),
        ("min(thing, 1)", Integer(0)),
        ("round(thing, 1)", Integer(0)),
        ("if(thing, 1, 2)", Integer(0)),
        ("thing and true", Integer(0)),
        ("thing or false", Integer(0)),
        ("null", Integer(0)),
        ("if(value == -9999, null, value)", Integer(-9999)),
        ("text(null) + 'a'", Integer(0)),
    ] {
        assert_eq!(evaluate(expression, &value), None, "{expression}");
    }
    assert_eq!(
        evaluate("thing and false", &Integer(0)),
        Some(Boolean(false)),
        "whatever it is"
    );
    assert_eq!(
        evaluate("thing or open@door", &Integer(0)),
        Some(Boolean(true))
    );
}

#[test]
fn a_text_that_grows_beyond_its_bound_is_null() {
    let long = Value::String("x".repeat(1_500));
    assert!(evaluate("value + value", &long).is_some());
    assert_eq!(evaluate("value + value + value", &long), None);
    let huge = Value::String("x".repeat(5_000));
    assert!(evaluate("value == 'x'", &huge).is_some());
    assert_eq!(evaluate("value + ''", &huge), None);
}

#[test]
fn every_mistake_has_its_place_and_a_hint() {
    for (text, at, message, hint) in [
        (
            "",
            "",
            "a value is missing before the end",
            "write a number",
        ),
        (
            "value +",
            "",
            "a value is missing before the end",
            "write a number",
        ),
        (
            "value + * 2",
            "*",
            "a value is missing before `*`",
            "write a number",
        ),
        (
            "valeu * 2",
            "valeu",
            "there is no signal `valeu`",
            "did you mean `value`?",
        ),
        (
            "temprature@air > 3",
            "temprature@air",
            "there is no signal",
            "did you mean `temperature`?",
        ),
        ("value-1", "value-1", "there is no signal", "`value - 1`"),
        ("3-1", "3-1", "is no number", "a minus has a space"),
        ("1.2.3", "1.2.3", "is no number", "write it like"),
        ("1e999", "1e999", "out of range", "1e308"),
        ("value = 3", "=", "means nothing here", "`==`"),
        ("value && true", "&&", "means nothing here", "`and`"),
        ("!value", "!", "means nothing here", "`not`"),
        ("value ? 1", "?", "means nothing here", "if("),
        (
            "open@",
            "open@",
            "the instance of `open` is missing",
            "behind the `@`",
        ),
        ("@door", "@", "means nothing here", "name of the signal"),
        ("(value + 1", "(", "not closed", "`)`"),
        ("value + 1)", ")", "closes nothing", "remove it"),
        ("(value 1)", "1", "missing before `1`", "operator"),
        ("1,5", ",", "comma", "0.5"),
        (
            "value 3",
            "3",
            "an operator is missing before `3`",
            "write `+`",
        ),
        ("'abc", "'abc", "has no end", "another '"),
        ("sqrt(value)", "sqrt", "no function `sqrt`", "known here"),
        ("mix(value, 1)", "mix", "no function `mix`", "did you mean"),
        (
            "abs(1, 2)",
            "abs(1, 2)",
            "does not take 2 arguments",
            "abs(value)",
        ),
        (
            "min(1)",
            "min(1)",
            "does not take one argument",
            "min(value, 0)",
        ),
        (
            "if(true, 1)",
            "if(true, 1)",
            "does not take 2 arguments",
            "if(value > 3",
        ),
        ("round(value, 1.5)", "1.5", "0 to 9", "round(value, 1)"),
        ("round(value, 10)", "10", "0 to 9", "round(value, 1)"),
        (
            "1 < value < 3",
            "<",
            "cannot stand in a row",
            "a < b and b < c",
        ),
        (
            "value + 'x'",
            "value",
            "text is joined with text",
            "text(value)",
        ),
        (
            "value and true",
            "value",
            "true or false is needed",
            "compare",
        ),
        ("not value", "value", "true or false is needed", "compare"),
        (
            "open@door + 1",
            "open@door",
            "a number is needed",
            "if(…, 1, 0)",
        ),
        ("-state", "state", "a number is needed", "use a number"),
        (
            "value == 'a'",
            "value == 'a'",
            "never compared",
            "numbers with numbers",
        ),
        (
            "open@door > too-warm",
            "open@door > too-warm",
            "neither less nor greater",
            "`not`",
        ),
        (
            "if(too-warm, 1, 'a')",
            "'a'",
            "`if` gives a number before and text here",
            "one kind",
        ),
        (
            "value and",
            "",
            "a value is missing before the end",
            "write",
        ),
        (
            "and value",
            "and",
            "a value is missing before `and`",
            "both sides",
        ),
        ("värde@air", "värde@air", "there is no signal", ""),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(text.get(error.at.clone()), Some(at), "{text}: {error:?}");
        assert!(error.message.contains(message), "{text}: {error:?}");
        assert!(error.hint.contains(hint), "{text}: {error:?}");
        assert!(!error.message.ends_with('.'), "{error:?}");
    }
    let second = parse("1 < value < 3").unwrap_err();
    assert_eq!(second.at, 10..11);
}

#[test]
fn a_condition_is_true_or_false() {
    let condition = |text| Expression::parse_condition(text, &scope());
    assert!(condition("value > 3").is_ok());
    assert!(condition("thing").is_ok(), "seen when it comes");
    let error = condition("value * 2").unwrap_err();
    assert_eq!((error.code, error.at), ("not-boolean", 0..9));
}

#[test]
fn where_there_is_no_value_none_is_taken() {
    let scope = Scope {
        value: None,
        signals: &signals,
    };
    let error = Expression::parse("level > value", &scope).unwrap_err();
    assert_eq!((error.at, error.code), (8..13, "unknown-name"));
    let error = Expression::parse("level", &Scope::of_value(Kind::Number)).unwrap_err();
    assert_eq!(
        error.hint,
        "only `value`, the resource's own value, can stand here"
    );
}

#[test]
fn signals_are_listed_once_in_the_order_of_the_text() {
    let text = "temperature@probe > level + temperature@air or temperature@probe < 0";
    let expression = parse(text).unwrap();
    let names: Vec<_> = expression
        .references()
        .iter()
        .map(|reference| (&*reference.name, reference.instance.as_deref()))
        .collect();
    assert_eq!(
        names,
        [
            ("temperature", Some("probe")),
            ("level", None),
            ("temperature", Some("air"))
        ]
    );
    assert!(!expression.uses_value());
    assert!(parse("if(true, 1, -abs(value))").unwrap().uses_value());
    assert_eq!(expression.kind(), Kind::Boolean);
}

#[test]
fn size_and_depth_are_bounded() {
    let deep = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&deep(MAX_DEPTH)).is_ok());
    assert!(
        parse(&deep(MAX_DEPTH + 1))
            .unwrap_err()
            .message
            .contains("32")
    );
    for nested in ["- ".repeat(400) + "1", "not ".repeat(400) + "true"] {
        assert!(parse(&nested).unwrap_err().message.contains("32"));
    }
    let calls = format!("{}1{}", "abs(".repeat(100), ")".repeat(100));
    assert!(parse(&calls).unwrap_err().message.contains("32"));
    let long = format!("1{}", "+1".repeat(127));
    assert_eq!(
        evaluate(&long, &Value::Integer(0)),
        Some(Value::Integer(128))
    );
    assert!(
        parse(&format!("{long}+1"))
            .unwrap_err()
            .message
            .contains("256")
    );
    assert!(
        parse(&" ".repeat(MAX_LENGTH + 1))
            .unwrap_err()
            .message
            .contains("2000")
    );
}

#[test]
fn no_text_makes_it_panic() {
    const SEEDS: [&str; 6] = [
        "temperature@probe > level + 3.0 and not open@door",
        "if(value >= 2, 'hot', text(round(value, 1)) + \"°\")",
        "max(abs(value), -1e+3, 7 % 0) / 14.5038 or too-warm",
        "((value))",
        "state == 'büsy' + state",
        "1e-3 * 170141183460469231731687303715884105727 - thing",
    ];
    const PIECES: [&str; 24] = [
        "(",
        ")",
        ",",
        "@",
        "'",
        "\"",
        "-",
        "+",
        " ",
        "and ",
        "or ",
        "not ",
        "if(",
        "min(",
        "value",
        "9",
        ".",
        "e",
        "ü",
        "\u{1F321}",
        "=",
        "<",
        "\0",
        "null",
    ];
    let mut rng = StdRng::seed_from_u64(5);
    let mut sound = 0;
    for _ in 0..20_000 {
        let mut text: Vec<char> = SEEDS[rng.random_range(0..SEEDS.len())].chars().collect();
        for _ in 0..rng.random_range(0..6) {
            let at = rng.random_range(0..=text.len());
            match rng.random_range(0..3) {
                0 => {
                    let until = rng.random_range(at..=text.len());
                    text.drain(at..until);
                }
                1 => {
                    let piece = PIECES[rng.random_range(0..PIECES.len())];
                    text.splice(at..at, piece.chars());
                }
                _ => {
                    let until = rng.random_range(at..=text.len());
                    let copy = text[at..until].to_vec();
                    text.splice(at..at, copy);
                }
            }
        }
        let text: String = text.into_iter().collect();
        match parse(&text) {
            Ok(expression) => {
                sound += 1;
                for value in [
                    Operand::Integer(i128::MIN),
                    Operand::Float(f64::MAX),
                    Operand::Text("x".into()),
                    Operand::Null,
                ] {
                    let result = expression.evaluate(value.clone(), &|_| value.clone());
                    if let Operand::Float(number) = result {
                        assert!(number.is_finite(), "{text}");
                    }
                }
            }
            Err(error) => assert!(text.get(error.at.clone()).is_some(), "{text}: {error:?}"),
        }
    }
    assert!(sound > 1_000, "{sound}");
}
