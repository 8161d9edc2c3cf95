//! Conditions: the little expressions in `cond=`, and the lists in `arch=`, `os=` and `release=`.
//!
//! The original hands the text to Python 2's `eval` with a name lookup of its own (rocks-xml 3). Here it is a language: it is
//! parsed once, knows which attributes it reads, and is evaluated without side effects. [`Semantics::Python2`] gives what
//! the original gives, coercions and total order included. [`Semantics::Strict`] is ours: `true` and `false` are literals,
//! comparing a word with a number is an error instead of a surprise, and arithmetic is not part of the language.

mod eval;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

pub use eval::{EvalError, Value};
pub(crate) use parse::unescape_python;

use crate::limits;

/// Whose rules a condition is evaluated by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Semantics {
    /// The original's: Python 2 with attribute lookup (dialects `rocks7` and `rocks61`).
    Python2,
    /// Ours (dialect `modern`).
    Strict,
}

/// Where a condition finds the values of attributes.
pub trait Lookup {
    /// The text of attribute `name`; `None` when it is not set.
    fn lookup(&self, name: &str) -> Option<&str>;
}

impl<F: Fn(&str) -> Option<&'static str>> Lookup for F {
    fn lookup(&self, name: &str) -> Option<&str> {
        self(name)
    }
}

/// A condition that was parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Cond {
    text: Box<str>,
    expr: Expr,
}

/// What is wrong with a condition's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CondError {
    /// What is wrong.
    pub message: String,
    /// The bytes of the condition's text that it is about.
    pub span: Range<usize>,
}

impl Cond {
    /// Parses `text`.
    ///
    /// # Errors
    /// What does not belong to the grammar, with its place in `text`.
    pub fn parse(text: &str) -> Result<Self, CondError> {
        if text.len() > limits::COND_BYTES {
            let message = format!("a condition may have at most {} bytes", limits::COND_BYTES);
            return Err(CondError { message, span: 0..text.len() });
        }
        Ok(Self { text: text.into(), expr: parse::parse(text)? })
    }

    /// All of `conds` hold.
    #[must_use]
    pub fn all(mut conds: Vec<Self>) -> Option<Self> {
        if conds.len() < 2 {
            return conds.pop();
        }
        let text = conds.iter().map(|c| format!("({})", c.text)).collect::<Vec<_>>().join(" and ");
        Some(Self { text: text.into(), expr: Expr::And(conds.into_iter().map(|c| c.expr).collect()) })
    }

    /// `name` is one of the comma-separated `items`: what `arch="i386, x86_64"` means.
    #[must_use]
    pub fn one_of(name: &str, items: &str) -> Self {
        let items: Vec<&str> = items.split(',').map(str::trim).collect();
        let text = items.iter().map(|item| format!("{name} == '{item}'")).collect::<Vec<_>>().join(" or ");
        let compare = |item: &&str| Expr::Compare {
            first: Box::new(Expr::Name(name.into())),
            rest: vec![(Compare::Equal, Expr::Text((*item).into()))],
        };
        Self { text: text.into(), expr: Expr::Or(items.iter().map(compare).collect()) }
    }

    /// The text as written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// What has no value: a comparison that [`Semantics::Strict`] refuses, or what Python would raise.
    pub fn holds(&self, attributes: &dyn Lookup, semantics: Semantics) -> Result<bool, EvalError> {
        Ok(eval::eval(&self.expr, attributes, semantics)?.truth())
    }

    /// The attributes that it may read, in order of appearance, each once.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.expr.visit(&mut |expr| {
            if let Expr::Name(name) = expr
                && !names.contains(&&**name)
            {
                names.push(&**name);
            }
        });
        names
    }

    /// The expression, for those who look for traps in it.
    #[must_use]
    pub fn expr(&self) -> &Expr {
        &self.expr
    }
}

impl fmt::Display for Cond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim())
    }
}

/// The expression that the original builds as text from `arch=`, `os=`, `release=` and `cond=` (rocks-xml 3.1): the parts are
/// glued with `and`, so an `or` in `cond` binds weaker than the glue. Empty when there is nothing to check.
#[must_use]
pub fn glued_text(arch: Option<&str>, os: Option<&str>, release: Option<&str>, cond: Option<&str>) -> String {
    let mut parts = Vec::new();
    for (name, list) in [("arch", arch), ("os", os), ("release", release)] {
        if let Some(list) = list.filter(|list| !list.is_empty()) {
            let items: Vec<_> = list.split(',').map(|item| format!("{name}==\"{}\"", item.trim())).collect();
            parts.push(format!("( {} )", items.join(" or ")));
        }
    }
    if let Some(cond) = cond.filter(|cond| !cond.is_empty()) {
        parts.push(cond.to_owned());
    }
    parts.join(" and ")
}

/// The syntax tree of a condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// An attribute.
    Name(Box<str>),
    /// `'text'`.
    Text(Box<str>),
    /// A whole number.
    Int(i128),
    /// A number with a point or an exponent.
    Float(f64),
    /// `None`.
    None,
    /// `not x`.
    Not(Box<Expr>),
    /// `-x`.
    Negative(Box<Expr>),
    /// `x and y and ...`
    And(Vec<Expr>),
    /// `x or y or ...`
    Or(Vec<Expr>),
    /// `a == b < c`: every neighbouring pair must fit.
    Compare {
        /// The leftmost operand.
        first: Box<Expr>,
        /// Operators with their right operands.
        rest: Vec<(Compare, Expr)>,
    },
    /// `x + y` and its like.
    Arithmetic {
        /// The operator.
        op: Arithmetic,
        /// Its operands.
        sides: Box<(Expr, Expr)>,
    },
    /// `[a, b]` or `(a, b)`.
    List(Vec<Expr>),
    /// `x if c else y`, as (x, c, y).
    IfElse(Box<(Expr, Expr, Expr)>),
    /// `x.startswith('y')`.
    Method {
        /// The value.
        receiver: Box<Expr>,
        /// The method's name.
        name: Box<str>,
        /// Its arguments.
        arguments: Vec<Expr>,
    },
}

/// A comparison operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// `==`
    Equal,
    /// `!=` and `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `is`
    Is,
    /// `is not`
    IsNot,
    /// `in`
    In,
    /// `not in`
    NotIn,
}

/// An arithmetic operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `//`
    FloorDivide,
    /// `%`
    Remainder,
}

impl Expr {
    /// Calls `f` for this expression and all in it.
    pub fn visit<'e>(&'e self, f: &mut dyn FnMut(&'e Expr)) {
        f(self);
        match self {
            Self::Name(_) | Self::Text(_) | Self::Int(_) | Self::Float(_) | Self::None => {}
            Self::Not(x) | Self::Negative(x) => x.visit(f),
            Self::And(all) | Self::Or(all) | Self::List(all) => all.iter().for_each(|x| x.visit(f)),
            Self::Compare { first, rest } => {
                first.visit(f);
                rest.iter().for_each(|(_, x)| x.visit(f));
            }
            Self::Arithmetic { sides, .. } => {
                sides.0.visit(f);
                sides.1.visit(f);
            }
            Self::IfElse(parts) => {
                parts.0.visit(f);
                parts.1.visit(f);
                parts.2.visit(f);
            }
            Self::Method { receiver, arguments, .. } => {
                receiver.visit(f);
                arguments.iter().for_each(|x| x.visit(f));
            }
        }
    }
}
