//! A condition's value.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Arithmetic, Compare, Expr, Lookup, Semantics};

/// What an expression comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'v> {
    /// `None`: also what an attribute that is not set gives.
    None,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number.
    Float(f64),
    /// Text.
    Text(Cow<'v, str>),
    /// A list.
    List(Vec<Value<'v>>),
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// A word was compared with a number.
    #[error("`{0}` is text and cannot be compared with a number")]
    TextWithNumber(String),
    /// The operation does not fit the values.
    #[error("{0}")]
    Unfit(String),
}

impl<'v> Value<'v> {
    /// Python's truth: nothing, zero and empty are false.
    #[must_use]
    pub fn truth(&self) -> bool {
        match self {
            Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Float(f) => *f != 0.0,
            Self::Text(t) => !t.is_empty(),
            Self::List(l) => !l.is_empty(),
        }
    }

    /// An attribute's text as a value, by the original's coercions in their order (rocks-xml 3.2).
    #[must_use]
    pub fn coerce(text: &'v str) -> Self {
        // The words are at most five letters: do not lower-case whole file contents.
        if text.len() <= 5 {
            let lower = text.to_ascii_lowercase();
            match lower.as_str() {
                "on" | "true" | "yes" | "y" => return Self::Bool(true),
                "off" | "false" | "no" | "n" => return Self::Bool(false),
                _ => {}
            }
        }
        let trimmed = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
        if trimmed.len() <= 64 && trimmed.starts_with(|c: char| c.is_ascii_digit() || "+-.iInN".contains(c)) {
            if let Ok(int) = trimmed.parse() {
                return Self::Int(int);
            }
            if let Ok(float) = trimmed.parse() {
                return Self::Float(float);
            }
        }
        Self::Text(Cow::Borrowed(text))
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Bool(b) => Some(f64::from(u8::from(*b))),
            #[expect(
                clippy::cast_precision_loss,
                reason = "Python compares a float with a whole number by value; so near 2^53 none cares"
            )]
            Self::Int(i) => Some(*i as f64),
            Self::Float(f) => Some(*f),
            _ => None,
        }
    }

    fn int(&self) -> Option<i128> {
        match self {
            Self::Bool(b) => Some(i128::from(*b)),
            Self::Int(i) => Some(*i),
            _ => None,
        }
    }

    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b)),
            _ => match (self.int(), other.int()) {
                (Some(a), Some(b)) => a == b,
                _ => matches!((self.number(), other.number()), (Some(a), Some(b)) if a == b),
            },
        }
    }

    /// Python 2's order over everything: nothing, then numbers, then lists, then text. `None` only with NaN.
    fn order(&self, other: &Self) -> Option<Ordering> {
        let rank = |value: &Self| match value {
            Self::None => 0,
            Self::Bool(_) | Self::Int(_) | Self::Float(_) => 1,
            Self::List(_) => 2,
            Self::Text(_) => 3,
        };
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::List(a), Self::List(b)) => {
                let different = a.iter().zip(b).find(|(a, b)| !a.equals(b));
                different.map_or(Some(a.len().cmp(&b.len())), |(a, b)| a.order(b))
            }
            _ if rank(self) != rank(other) => Some(rank(self).cmp(&rank(other))),
            _ => match (self.int(), other.int()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => match (self.number(), other.number()) {
                    (Some(a), Some(b)) => a.partial_cmp(&b),
                    _ => Some(Ordering::Equal),
                },
            },
        }
    }
}

pub(super) fn eval<'v>(
    expr: &'v Expr,
    attributes: &'v dyn Lookup,
    semantics: Semantics,
) -> Result<Value<'v>, EvalError> {
    let value = |expr: &'v Expr| eval(expr, attributes, semantics);
    Ok(match expr {
        Expr::Name(name) => match attributes.lookup(name) {
            Some(text) => Value::coerce(text),
            None if semantics == Semantics::Strict && matches!(&**name, "True" | "true") => Value::Bool(true),
            None if semantics == Semantics::Strict && matches!(&**name, "False" | "false") => Value::Bool(false),
            None => Value::None,
        },
        Expr::Text(text) => Value::Text(Cow::Borrowed(text)),
        Expr::Int(int) => Value::Int(*int),
        Expr::Float(float) => Value::Float(*float),
        Expr::None => Value::None,
        Expr::Not(x) => Value::Bool(!value(x)?.truth()),
        Expr::Negative(x) => match value(x)? {
            Value::Float(f) => Value::Float(-f),
            other => Value::Int(-other.int().ok_or_else(|| EvalError::Unfit("`-` needs a number".into()))?),
        },
        Expr::And(all) => {
            let mut last = Value::Bool(true);
            for x in all {
                last = value(x)?;
                if !last.truth() {
                    break;
                }
            }
            last
        }
        Expr::Or(all) => {
            let mut last = Value::Bool(false);
            for x in all {
                last = value(x)?;
                if last.truth() {
                    break;
                }
            }
            last
        }
        Expr::Compare { first, rest } => {
            let mut left = value(first)?;
            for (op, right) in rest {
                let right = value(right)?;
                if !compare(*op, &left, &right, semantics)? {
                    return Ok(Value::Bool(false));
                }
                left = right;
            }
            Value::Bool(true)
        }
        Expr::Arithmetic { op, sides } => arithmetic(*op, value(&sides.0)?, value(&sides.1)?)?,
        Expr::List(items) => Value::List(items.iter().map(value).collect::<Result<_, _>>()?),
        Expr::IfElse(parts) => {
            if value(&parts.1)?.truth() {
                value(&parts.0)?
            } else {
                value(&parts.2)?
            }
        }
        Expr::Method { receiver, name, arguments } => {
            let arguments = arguments.iter().map(value).collect::<Result<Vec<_>, _>>()?;
            method(value(receiver)?, name, &arguments)?
        }
    })
}

fn compare(op: Compare, left: &Value<'_>, right: &Value<'_>, semantics: Semantics) -> Result<bool, EvalError> {
    let ordered = |fits: fn(Ordering) -> bool| {
        if semantics == Semantics::Strict {
            match (left, right) {
                // What is not set is neither more nor less than anything.
                (Value::None, _) | (_, Value::None) => return Ok(false),
                (Value::Text(text), other) | (other, Value::Text(text)) if !matches!(other, Value::Text(_)) => {
                    return Err(EvalError::TextWithNumber(text.chars().take(60).collect()));
                }
                _ => {}
            }
        }
        Ok(left.order(right).is_some_and(fits))
    };
    match op {
        Compare::Equal => Ok(left.equals(right)),
        Compare::NotEqual => Ok(!left.equals(right)),
        Compare::Less => ordered(Ordering::is_lt),
        Compare::LessOrEqual => ordered(Ordering::is_le),
        Compare::Greater => ordered(Ordering::is_gt),
        Compare::GreaterOrEqual => ordered(Ordering::is_ge),
        Compare::Is => Ok(is(left, right)),
        Compare::IsNot => Ok(!is(left, right)),
        Compare::In => contains(left, right),
        Compare::NotIn => Ok(!contains(left, right)?),
    }
}

/// Identity, as far as it can be told from values: the same kind and equal.
fn is(left: &Value<'_>, right: &Value<'_>) -> bool {
    std::mem::discriminant(left) == std::mem::discriminant(right) && left.equals(right)
}

fn contains(item: &Value<'_>, whole: &Value<'_>) -> Result<bool, EvalError> {
    match (item, whole) {
        (_, Value::List(items)) => Ok(items.iter().any(|x| x.equals(item))),
        (Value::Text(part), Value::Text(text)) => Ok(text.contains(&**part)),
        _ => Err(EvalError::Unfit("`in` needs a list, or a text in a text".into())),
    }
}

fn arithmetic<'v>(op: Arithmetic, left: Value<'v>, right: Value<'v>) -> Result<Value<'v>, EvalError> {
    let unfit = || EvalError::Unfit("arithmetic needs two numbers".into());
    if let (Arithmetic::Add, Value::Text(a), Value::Text(b)) = (op, &left, &right) {
        return Ok(Value::Text(Cow::Owned(format!("{a}{b}"))));
    }
    if let (Some(a), Some(b)) = (left.int(), right.int()) {
        let overflow = || EvalError::Unfit("the number is too large".into());
        let by_zero = || EvalError::Unfit("division by zero".into());
        return Ok(Value::Int(match op {
            Arithmetic::Add => a.checked_add(b).ok_or_else(overflow)?,
            Arithmetic::Subtract => a.checked_sub(b).ok_or_else(overflow)?,
            Arithmetic::Multiply => a.checked_mul(b).ok_or_else(overflow)?,
            // Python rounds towards minus infinity, and the remainder has the divisor's sign.
            Arithmetic::Divide | Arithmetic::FloorDivide => {
                let quotient = a.checked_div(b).ok_or_else(by_zero)?;
                quotient - i128::from(a.checked_rem(b).is_some_and(|r| r != 0) && (a < 0) != (b < 0))
            }
            Arithmetic::Remainder => {
                let remainder = a.checked_rem(b).ok_or_else(by_zero)?;
                if remainder != 0 && (remainder < 0) != (b < 0) { remainder + b } else { remainder }
            }
        }));
    }
    let (a, b) = (left.number().ok_or_else(unfit)?, right.number().ok_or_else(unfit)?);
    if b == 0.0 && matches!(op, Arithmetic::Divide | Arithmetic::FloorDivide | Arithmetic::Remainder) {
        return Err(EvalError::Unfit("division by zero".into()));
    }
    Ok(Value::Float(match op {
        Arithmetic::Add => a + b,
        Arithmetic::Subtract => a - b,
        Arithmetic::Multiply => a * b,
        Arithmetic::Divide => a / b,
        Arithmetic::FloorDivide => (a / b).floor(),
        Arithmetic::Remainder => a - b * (a / b).floor(),
    }))
}

fn method<'v>(receiver: Value<'v>, name: &str, arguments: &[Value<'_>]) -> Result<Value<'v>, EvalError> {
    let Value::Text(text) = receiver else {
        return Err(EvalError::Unfit(format!("`.{name}()` needs a text")));
    };
    let cut = |part: &str| Value::Text(Cow::Owned(part.to_owned()));
    Ok(match (name, arguments) {
        ("startswith", [Value::Text(part)]) => Value::Bool(text.starts_with(&**part)),
        ("endswith", [Value::Text(part)]) => Value::Bool(text.ends_with(&**part)),
        ("find", [Value::Text(part)]) => Value::Int(text.find(&**part).map_or(-1, |at| at as i128)),
        ("lower", []) => cut(&text.to_lowercase()),
        ("upper", []) => cut(&text.to_uppercase()),
        ("strip", []) => cut(text.trim()),
        ("lstrip", []) => cut(text.trim_start()),
        ("rstrip", []) => cut(text.trim_end()),
        ("isdigit", []) => Value::Bool(!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())),
        ("isalpha", []) => Value::Bool(!text.is_empty() && text.bytes().all(|b| b.is_ascii_alphabetic())),
        ("split", []) => {
            Value::List(text.split_whitespace().map(|part| Value::Text(Cow::Owned(part.to_owned()))).collect())
        }
        ("split", [Value::Text(by)]) if !by.is_empty() => {
            Value::List(text.split(&**by).map(|part| Value::Text(Cow::Owned(part.to_owned()))).collect())
        }
        _ => return Err(EvalError::Unfit(format!("`.{name}()` is not known, or its arguments do not fit"))),
    })
}
