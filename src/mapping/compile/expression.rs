//! Expressions in a mapping file: their mistakes are shown where in the text they are.

use crate::diagnostic::Item;
use crate::mapping::expression::{Expression, ExpressionError, Scope};

/// Reads an expression that gives a value.
pub(super) fn value(item: &Item<'_>, example: &str, scope: &Scope<'_>) -> Option<Expression> {
    let text = item.text(example)?;
    said(item, Expression::parse(text, scope))
}

/// Reads an expression that is true or false.
pub(super) fn condition(item: &Item<'_>, example: &str, scope: &Scope<'_>) -> Option<Expression> {
    let text = item.text(example)?;
    said(item, Expression::parse_condition(text, scope))
}

fn said(item: &Item<'_>, parsed: Result<Expression, ExpressionError>) -> Option<Expression> {
    match parsed {
        Ok(expression) => Some(expression),
        Err(error) => {
            let at = item.at_bytes(error.at);
            item.reader()
                .error(error.code, &at, error.message, error.hint);
            None
        }
    }
}
