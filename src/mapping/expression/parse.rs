//! From tokens to a checked expression.

use std::ops::Range;

use super::token::{Token, tokens};
use super::{
    Expression, ExpressionError, Function, Kind, MAX_DEPTH, MAX_PARTS, Node, Operator, Reference,
    Scope,
};
use crate::diagnostic::nearest;

/// What a word can be but a name.
const KEYWORDS: [&str; 6] = ["value", "true", "false", "null", "and", "or"];

const FUNCTIONS: [(&str, Function); 5] = [
    ("min", Function::Min),
    ("max", Function::Max),
    ("abs", Function::Abs),
    ("round", Function::Round),
    ("text", Function::Text),
];

pub(super) fn parse(text: &str, scope: &Scope<'_>) -> Result<Expression, ExpressionError> {
    let mut parser = Parser {
        text,
        tokens: tokens(text)?,
        next: 0,
        scope,
        references: Vec::new(),
        parts: 0,
        depth: 0,
    };
    let root = parser.either()?;
    let (token, at) = parser.peek();
    match token {
        Token::End => {}
        Token::Close => return Err(syntax(at, "this `)` closes nothing", "remove it")),
        Token::Comma => {
            return Err(syntax(
                at,
                "a comma stands between the arguments of a function only",
                "write numbers with a point: `0.5`",
            ));
        }
        // A sign with a number behind it is what is left of `value -1`.
        _ => {
            let written = parser.written(&at);
            return Err(syntax(
                at,
                format!("an operator is missing before {}", token.describe(written)),
                "write `+`, `-`, `*`, `/`, a comparison, `and` or `or` between them",
            ));
        }
    }
    Ok(Expression {
        root: root.node,
        kind: root.kind,
        references: parser.references.into(),
    })
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(Token<'a>, Range<usize>)>,
    next: usize,
    scope: &'a Scope<'a>,
    references: Vec<Reference>,
    parts: usize,
    depth: usize,
}

/// A part that has been read: what it is, and where it stands.
struct Part {
    node: Node,
    kind: Kind,
    at: Range<usize>,
}

type Parsed = Result<Part, ExpressionError>;

impl<'a> Parser<'a> {
    fn peek(&self) -> (Token<'a>, Range<usize>) {
        let end = self.text.len();
        let token = self.tokens.get(self.next).cloned();
        token.unwrap_or((Token::End, end..end))
    }

    fn take(&mut self) -> (Token<'a>, Range<usize>) {
        let token = self.peek();
        self.next += 1;
        token
    }

    fn written(&self, at: &Range<usize>) -> &'a str {
        self.text.get(at.clone()).unwrap_or_default()
    }

    /// Whether the next word is this keyword; takes it then.
    fn keyword(&mut self, word: &str) -> bool {
        let found = matches!(self.peek().0, Token::Word(next, None) if next == word);
        self.next += usize::from(found);
        found
    }

    fn made(&mut self, node: Node, kind: Kind, at: Range<usize>) -> Parsed {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(ExpressionError {
                code: "bad-expression",
                at,
                message: format!("an expression has at most {MAX_PARTS} parts"),
                hint: "split it into several signals".to_owned(),
            });
        }
        Ok(Part { node, kind, at })
    }

    fn deeper(&mut self, at: &Range<usize>, read: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        if self.depth == MAX_DEPTH {
            return Err(syntax(
                at.clone(),
                format!("more than {MAX_DEPTH} brackets, calls or signs stand within each other"),
                "split it into several signals",
            ));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn either(&mut self) -> Parsed {
        let mut left = self.both()?;
        while self.keyword("or") {
            let right = self.both()?;
            left = self.logical(Operator::Or, left, right)?;
        }
        Ok(left)
    }

    fn both(&mut self) -> Parsed {
        let mut left = self.negated()?;
        while self.keyword("and") {
            let right = self.negated()?;
            left = self.logical(Operator::And, left, right)?;
        }
        Ok(left)
    }

    fn logical(&mut self, operator: Operator, left: Part, right: Part) -> Parsed {
        for part in [&left, &right] {
            self.must_be(part, Kind::Boolean)?;
        }
        self.binary(operator, left, right, Kind::Boolean)
    }

    fn negated(&mut self) -> Parsed {
        let (_, at) = self.peek();
        if !self.keyword("not") {
            return self.comparison();
        }
        let part = self.deeper(&at, Self::negated)?;
        self.must_be(&part, Kind::Boolean)?;
        let at = at.start..part.at.end;
        self.made(Node::Not(Box::new(part.node)), Kind::Boolean, at)
    }

    fn comparison(&mut self) -> Parsed {
        let left = self.sum()?;
        let Some(operator) = self.sign(is_comparison) else {
            return Ok(left);
        };
        let right = self.sum()?;
        if left.kind.with(right.kind).is_none() {
            return Err(type_error(
                left.at.start..right.at.end,
                format!(
                    "{} is never compared with {}",
                    left.kind.describe(),
                    right.kind.describe()
                ),
                "compare numbers with numbers and texts with texts",
            ));
        }
        let ordered = !matches!(operator, Operator::Equal | Operator::NotEqual);
        if ordered && [left.kind, right.kind].contains(&Kind::Boolean) {
            return Err(type_error(
                left.at.start..right.at.end,
                "true is neither less nor greater than false".to_owned(),
                "use it as it is, or with `not`, `==` or `!=`",
            ));
        }
        let whole = self.binary(operator, left, right, Kind::Boolean)?;
        let (_, at) = self.peek();
        if self.sign(is_comparison).is_some() {
            return Err(syntax(
                at,
                "comparisons cannot stand in a row",
                "write `a < b and b < c`",
            ));
        }
        Ok(whole)
    }

    fn sign(&mut self, wanted: fn(Operator) -> bool) -> Option<Operator> {
        let Token::Sign(operator) = self.peek().0 else {
            return None;
        };
        wanted(operator).then(|| {
            self.next += 1;
            operator
        })
    }

    fn sum(&mut self) -> Parsed {
        let mut left = self.product()?;
        while let Some(operator) =
            self.sign(|sign| matches!(sign, Operator::Add | Operator::Subtract))
        {
            let right = self.product()?;
            left = self.calculation(operator, left, right)?;
        }
        Ok(left)
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.signed()?;
        while let Some(operator) = self.sign(|sign| {
            matches!(
                sign,
                Operator::Multiply | Operator::Divide | Operator::Remainder
            )
        }) {
            let right = self.signed()?;
            left = self.calculation(operator, left, right)?;
        }
        Ok(left)
    }

    fn calculation(&mut self, operator: Operator, left: Part, right: Part) -> Parsed {
        let kinds = [left.kind, right.kind];
        if operator == Operator::Add && kinds.contains(&Kind::Text) {
            // `+` also joins texts.
            for part in [&left, &right] {
                if !matches!(part.kind, Kind::Text | Kind::Any) {
                    return Err(type_error(
                        part.at.clone(),
                        format!(
                            "text is joined with text, and this is {}",
                            part.kind.describe()
                        ),
                        format!("write `text({})`", self.written(&part.at)),
                    ));
                }
            }
            return self.binary(operator, left, right, Kind::Text);
        }
        for part in [&left, &right] {
            self.must_be(part, Kind::Number)?;
        }
        let kind = match (operator, kinds) {
            (Operator::Add, [Kind::Any, Kind::Any]) => Kind::Any,
            _ => Kind::Number,
        };
        self.binary(operator, left, right, kind)
    }

    fn binary(&mut self, operator: Operator, left: Part, right: Part, kind: Kind) -> Parsed {
        let at = left.at.start..right.at.end;
        let parts = Box::new((left.node, right.node));
        self.made(Node::Binary(operator, parts), kind, at)
    }

    fn signed(&mut self) -> Parsed {
        let (token, at) = self.peek();
        match token {
            Token::Sign(Operator::Subtract) => {
                self.take();
                let part = self.deeper(&at, Self::signed)?;
                self.must_be(&part, Kind::Number)?;
                let at = at.start..part.at.end;
                self.made(Node::Negate(Box::new(part.node)), Kind::Number, at)
            }
            _ => self.primary(),
        }
    }

    fn primary(&mut self) -> Parsed {
        let (token, at) = self.take();
        match token {
            Token::Integer(number) => self.made(Node::Integer(number), Kind::Number, at),
            Token::Float(number) => self.made(Node::Float(number), Kind::Number, at),
            Token::Text(text) => self.made(Node::Text(text.into()), Kind::Text, at),
            Token::Open => {
                let part = self.deeper(&at, Self::either)?;
                let end = self.close(&at)?;
                Ok(Part {
                    at: at.start..end,
                    ..part
                })
            }
            Token::Word(name, instance) => self.word(name, instance, at),
            token => Err(syntax(
                at.clone(),
                format!(
                    "a value is missing before {}",
                    token.describe(self.written(&at))
                ),
                "write a number, a name, text in quotes, or something in brackets",
            )),
        }
    }

    /// Takes the `)` of what was opened at `at`; where it ends.
    fn close(&mut self, at: &Range<usize>) -> Result<usize, ExpressionError> {
        let (token, found) = self.take();
        match token {
            Token::Close => Ok(found.end),
            Token::End => Err(syntax(
                at.clone(),
                "this bracket is not closed",
                "write `)` where it ends",
            )),
            _ => Err(syntax(
                found.clone(),
                format!(
                    "`)` or an operator is missing before {}",
                    token.describe(self.written(&found))
                ),
                "close the bracket, or write an operator",
            )),
        }
    }

    fn word(&mut self, name: &'a str, instance: Option<&'a str>, at: Range<usize>) -> Parsed {
        if instance.is_none() {
            if self.peek().0 == Token::Open {
                return self.call(name, at);
            }
            match name {
                "true" | "false" => {
                    return self.made(Node::Boolean(name == "true"), Kind::Boolean, at);
                }
                "null" => return self.made(Node::Null, Kind::Any, at),
                "and" | "or" => {
                    return Err(syntax(
                        at,
                        format!("a value is missing before `{name}`"),
                        "write a condition on both sides of it",
                    ));
                }
                "value" => {
                    let Some(kind) = self.scope.value else {
                        return Err(ExpressionError {
                            code: "unknown-name",
                            at,
                            message: "there is no `value` here".to_owned(),
                            hint: "name a signal: `temperature@air`".to_owned(),
                        });
                    };
                    return self.made(Node::Own, kind, at);
                }
                _ => {}
            }
        }
        self.signal(name, instance, at)
    }

    fn signal(&mut self, name: &str, instance: Option<&str>, at: Range<usize>) -> Parsed {
        let kind = (self.scope.signals)(name, instance).map_err(|objection| {
            let own = self.scope.value.map(|_| "value");
            let words = KEYWORDS.into_iter().filter(|word| *word != "value");
            let near = nearest(name, words.chain(own)).filter(|_| instance.is_none());
            let run_together = instance.is_none()
                && name
                    .split('-')
                    .any(|part| part == "value" || part.starts_with(|c: char| c.is_ascii_digit()))
                && name.contains('-');
            ExpressionError {
                code: "unknown-name",
                at: at.clone(),
                message: objection.message,
                hint: match near {
                    _ if run_together => format!(
                        "a minus has a space on both sides: `{}`",
                        name.replacen('-', " - ", 1)
                    ),
                    Some(word) => format!("did you mean `{word}`?"),
                    None => objection.hint,
                },
            }
        })?;
        let reference = Reference {
            name: name.into(),
            instance: instance.map(Box::from),
        };
        let known = self.references.iter().position(|known| *known == reference);
        let index = known.unwrap_or_else(|| {
            self.references.push(reference);
            self.references.len() - 1
        });
        self.made(Node::Signal(index), kind, at)
    }

    fn call(&mut self, name: &str, at: Range<usize>) -> Parsed {
        let function = FUNCTIONS.iter().find(|(known, _)| *known == name);
        if function.is_none() && name != "if" {
            let mut names: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
            names.push("if");
            return Err(ExpressionError {
                code: "unknown-name",
                at,
                message: format!("there is no function `{name}`"),
                hint: crate::diagnostic::suggestion(name, &names),
            });
        }
        let (_, open) = self.take();
        let mut arguments = Vec::new();
        if self.peek().0 != Token::Close {
            arguments.push(self.deeper(&at, Self::either)?);
            while self.peek().0 == Token::Comma {
                self.take();
                arguments.push(self.deeper(&at, Self::either)?);
            }
        }
        let end = self.close(&open)?;
        let at = at.start..end;
        match function {
            Some((_, function)) => self.function(name, *function, arguments, at),
            None => self.choice(arguments, at),
        }
    }

    fn function(
        &mut self,
        name: &str,
        function: Function,
        arguments: Vec<Part>,
        at: Range<usize>,
    ) -> Parsed {
        let (least, most, example) = match function {
            Function::Min | Function::Max => (2, MAX_PARTS, format!("{name}(value, 0)")),
            Function::Abs => (1, 1, "abs(value)".to_owned()),
            Function::Round => (1, 2, "round(value, 1)".to_owned()),
            Function::Text => (1, 1, "text(value)".to_owned()),
        };
        if !(least..=most).contains(&arguments.len()) {
            return Err(syntax(
                at,
                format!("`{name}` does not take {}", count(arguments.len())),
                format!("write it like `{example}`"),
            ));
        }
        if function != Function::Text {
            for part in &arguments {
                self.must_be(part, Kind::Number)?;
            }
        }
        if function == Function::Round
            && let Some(digits) = arguments.get(1)
            && !matches!(digits.node, Node::Integer(0..=9))
        {
            return Err(type_error(
                digits.at.clone(),
                "the number of decimals is a whole number from 0 to 9".to_owned(),
                "write it like `round(value, 1)`",
            ));
        }
        let kind = match function {
            Function::Text => Kind::Text,
            _ => Kind::Number,
        };
        let nodes = arguments.into_iter().map(|part| part.node).collect();
        self.made(Node::Call(function, nodes), kind, at)
    }

    fn choice(&mut self, arguments: Vec<Part>, at: Range<usize>) -> Parsed {
        let given = arguments.len();
        let Ok([condition, one, other]) = <[Part; 3]>::try_from(arguments) else {
            return Err(syntax(
                at,
                format!("`if` does not take {}", count(given)),
                "write it like `if(value > 3, 'high', 'low')`",
            ));
        };
        self.must_be(&condition, Kind::Boolean)?;
        let Some(kind) = one.kind.with(other.kind) else {
            return Err(type_error(
                other.at.clone(),
                format!(
                    "`if` gives {} before and {} here",
                    one.kind.describe(),
                    other.kind.describe()
                ),
                "make both of one kind",
            ));
        };
        let parts = Box::new((condition.node, one.node, other.node));
        self.made(Node::If(parts), kind, at)
    }

    fn must_be(&self, part: &Part, kind: Kind) -> Result<(), ExpressionError> {
        if part.kind == kind || part.kind == Kind::Any {
            return Ok(());
        }
        let hint = match kind {
            Kind::Boolean => "compare it with something: `value > 3`",
            Kind::Number if part.kind == Kind::Boolean => "write `if(…, 1, 0)`",
            _ => "use a number, or a signal that is one",
        };
        Err(type_error(
            part.at.clone(),
            format!(
                "{} is needed, and `{}` is {}",
                kind.describe(),
                self.written(&part.at),
                part.kind.describe()
            ),
            hint,
        ))
    }
}

fn is_comparison(operator: Operator) -> bool {
    use Operator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    matches!(
        operator,
        Equal | NotEqual | Less | LessOrEqual | Greater | GreaterOrEqual
    )
}

fn count(arguments: usize) -> String {
    match arguments {
        0 => "no argument".to_owned(),
        1 => "one argument".to_owned(),
        number => format!("{number} arguments"),
    }
}

fn syntax(
    at: Range<usize>,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> ExpressionError {
    ExpressionError {
        code: "bad-expression",
        at,
        message: message.into(),
        hint: hint.into(),
    }
}

fn type_error(
    at: Range<usize>,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> ExpressionError {
    ExpressionError {
        code: "bad-type",
        at,
        message: message.into(),
        hint: hint.into(),
    }
}
