//! Text to syntax tree: a hand-written lexer and a Pratt parser over Python 2's expression grammar, as far as it is ours.

use std::ops::Range;

use super::{Arithmetic, Compare, CondError, Expr};
use crate::limits;

#[derive(Debug, Clone, PartialEq)]
enum Token<'t> {
    Name(&'t str),
    Text(String),
    Int(i128),
    Float(f64),
    Symbol(&'static str),
    End,
}

pub(super) fn parse(text: &str) -> Result<Expr, CondError> {
    let tokens = lex(text)?;
    let mut parser = Parser { tokens, at: 0, depth: 0 };
    let expr = parser.ternary()?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("nothing more")),
    }
}

const SYMBOLS: [&str; 22] = [
    "==", "!=", "<>", "<=", ">=", "//", "<", ">", "(", ")", "[", "]", ",", "+", "-", "*", "/", "%", ".", "{", "=", ":",
];

fn lex(text: &str) -> Result<Vec<(Token<'_>, Range<usize>)>, CondError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, length) = if c.is_ascii_whitespace() {
            at += 1;
            continue;
        } else if c.is_ascii_alphabetic() || c == '_' {
            let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            (Token::Name(&rest[..length]), length)
        } else if c.is_ascii_digit() || (c == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) {
            number(rest, at)?
        } else if matches!(c, '\'' | '"') {
            quoted(rest, at, c)?
        } else if let Some(symbol) = SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            (Token::Symbol(symbol), symbol.len())
        } else {
            let message = format!("`{c}` has no meaning in a condition");
            return Err(CondError { message, span: at..at + c.len_utf8() });
        };
        tokens.push((token, at..at + length));
        at += length;
    }
    tokens.push((Token::End, text.len()..text.len()));
    Ok(tokens)
}

fn number(rest: &str, at: usize) -> Result<(Token<'static>, usize), CondError> {
    let bad = |length: usize| CondError { message: "this is not a number".into(), span: at..at + length };
    if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
        let digits = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        let value = i128::from_str_radix(&hex[..digits], 16).map_err(|_| bad(digits + 2))?;
        return Ok((Token::Int(value), digits + 2 + usize::from(hex[digits..].starts_with(['l', 'L']))));
    }
    let digits = |s: &str| s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let mut length = digits(rest);
    let whole = length;
    if rest[length..].starts_with('.') {
        length += 1;
        length += digits(&rest[length..]);
    }
    if rest[length..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[length + 1..].starts_with(['+', '-']));
        let exponent = digits(&rest[length + 1 + sign..]);
        if exponent > 0 {
            length += 1 + sign + exponent;
        }
    }
    if rest[length..].starts_with(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'l' | 'L')) {
        return Err(bad(length + 1));
    }
    if length > whole {
        return Ok((Token::Float(rest[..length].parse().map_err(|_| bad(length))?), length));
    }
    // Python 2 reads a leading zero as octal.
    let value = if whole > 1 && rest.starts_with('0') {
        i128::from_str_radix(&rest[1..whole], 8).map_err(|_| bad(whole))?
    } else {
        rest[..whole].parse().map_err(|_| bad(whole))?
    };
    Ok((Token::Int(value), whole + usize::from(rest[whole..].starts_with(['l', 'L']))))
}

fn quoted(rest: &str, at: usize, quote: char) -> Result<(Token<'static>, usize), CondError> {
    let open = || CondError { message: "this text is not closed".into(), span: at..at + rest.len() };
    let mut escaped = false;
    let end = rest[1..]
        .find(|c: char| {
            let closes = !escaped && c == quote;
            escaped = !escaped && c == '\\';
            closes
        })
        .ok_or_else(open)?;
    let body = &rest[1..=end];
    let value = unescape_python(body).ok_or(CondError { message: "bad escape".into(), span: at..at + end + 2 })?;
    Ok((Token::Text(value), end + 2))
}

/// What the text between quotes of a Python 2 `str` literal stands for; `None` where Python refuses it.
pub(crate) fn unescape_python(body: &str) -> Option<String> {
    if !body.contains('\\') {
        return Some(body.to_owned());
    }
    let mut out = String::with_capacity(body.len());
    let mut chars = body.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next()? {
            '\n' => {}
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\x0b'),
            c @ ('\\' | '\'' | '"') => out.push(c),
            'x' => {
                let digits = [chars.next()?.to_digit(16)?, chars.next()?.to_digit(16)?];
                out.push(char::from_u32(digits[0] * 16 + digits[1])?);
            }
            c @ '0'..='7' => {
                let mut value = c.to_digit(8)?;
                for _ in 0..2 {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    chars.next();
                }
                out.push(char::from_u32(value & 0xff)?);
            }
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    Some(out)
}

struct Parser<'t> {
    tokens: Vec<(Token<'t>, Range<usize>)>,
    at: usize,
    depth: usize,
}

/// Words that cannot be attributes.
const KEYWORDS: [&str; 8] = ["and", "or", "not", "is", "in", "if", "else", "lambda"];

impl<'t> Parser<'t> {
    fn peek(&self) -> &Token<'t> {
        &self.tokens[self.at].0
    }

    fn next(&mut self) -> Token<'t> {
        let token = self.tokens[self.at].0.clone();
        // The last token is `End` and stays.
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn word(&mut self, word: &str) -> bool {
        let is = matches!(self.peek(), Token::Name(name) if *name == word);
        if is {
            self.next();
        }
        is
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let is = matches!(self.peek(), Token::Symbol(s) if *s == symbol);
        if is {
            self.next();
        }
        is
    }

    fn unexpected(&self, wanted: &str) -> CondError {
        let (token, span) = &self.tokens[self.at];
        let found = match token {
            Token::End => "the end".to_owned(),
            Token::Name(name) => format!("`{name}`"),
            Token::Symbol(symbol) => format!("`{symbol}`"),
            Token::Text(_) => "text".to_owned(),
            Token::Int(_) | Token::Float(_) => "a number".to_owned(),
        };
        CondError { message: format!("expected {wanted}, found {found}"), span: span.clone() }
    }

    /// Every nested expression goes through here, so this is where depth is bounded.
    fn ternary(&mut self) -> Result<Expr, CondError> {
        self.depth += 1;
        if self.depth > limits::COND_DEPTH {
            let span = self.tokens[self.at].1.clone();
            return Err(CondError { message: "the condition is nested too deeply".into(), span });
        }
        let value = self.or()?;
        let result = if self.word("if") {
            let condition = self.or()?;
            if !self.word("else") {
                return Err(self.unexpected("`else`"));
            }
            let other = self.ternary()?;
            Expr::IfElse(Box::new((value, condition, other)))
        } else {
            value
        };
        self.depth -= 1;
        Ok(result)
    }

    fn or(&mut self) -> Result<Expr, CondError> {
        let first = self.and()?;
        let mut all = vec![first];
        while self.word("or") {
            all.push(self.and()?);
        }
        Ok(single(all, Expr::Or))
    }

    fn and(&mut self) -> Result<Expr, CondError> {
        let first = self.not()?;
        let mut all = vec![first];
        while self.word("and") {
            all.push(self.not()?);
        }
        Ok(single(all, Expr::And))
    }

    fn not(&mut self) -> Result<Expr, CondError> {
        let mut nots = 0;
        while self.word("not") {
            nots += 1;
            if nots > limits::COND_DEPTH {
                return Err(self.unexpected("fewer `not`"));
            }
        }
        let mut expr = self.comparison()?;
        for _ in 0..nots {
            expr = Expr::Not(Box::new(expr));
        }
        Ok(expr)
    }

    fn comparison(&mut self) -> Result<Expr, CondError> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        while let Some(op) = self.comparison_operator()? {
            rest.push((op, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare { first: Box::new(first), rest } })
    }

    fn comparison_operator(&mut self) -> Result<Option<Compare>, CondError> {
        let op = match self.peek() {
            Token::Symbol("==") => Compare::Equal,
            Token::Symbol("!=" | "<>") => Compare::NotEqual,
            Token::Symbol("<") => Compare::Less,
            Token::Symbol("<=") => Compare::LessOrEqual,
            Token::Symbol(">") => Compare::Greater,
            Token::Symbol(">=") => Compare::GreaterOrEqual,
            Token::Name("in") => Compare::In,
            Token::Name("is") => {
                self.next();
                return Ok(Some(if self.word("not") { Compare::IsNot } else { Compare::Is }));
            }
            Token::Name("not") => {
                self.next();
                if !self.word("in") {
                    return Err(self.unexpected("`in`"));
                }
                return Ok(Some(Compare::NotIn));
            }
            _ => return Ok(None),
        };
        self.next();
        Ok(Some(op))
    }

    fn sum(&mut self) -> Result<Expr, CondError> {
        let mut left = self.product()?;
        loop {
            let op = match self.peek() {
                Token::Symbol("+") => Arithmetic::Add,
                Token::Symbol("-") => Arithmetic::Subtract,
                _ => return Ok(left),
            };
            self.next();
            left = Expr::Arithmetic { op, sides: Box::new((left, self.product()?)) };
        }
    }

    fn product(&mut self) -> Result<Expr, CondError> {
        let mut left = self.unary()?;
        loop {
            let op = match self.peek() {
                Token::Symbol("*") => Arithmetic::Multiply,
                Token::Symbol("/") => Arithmetic::Divide,
                Token::Symbol("//") => Arithmetic::FloorDivide,
                Token::Symbol("%") => Arithmetic::Remainder,
                _ => return Ok(left),
            };
            self.next();
            left = Expr::Arithmetic { op, sides: Box::new((left, self.unary()?)) };
        }
    }

    fn unary(&mut self) -> Result<Expr, CondError> {
        let mut negative = false;
        loop {
            if self.symbol("-") {
                negative = !negative;
            } else if !self.symbol("+") {
                break;
            }
        }
        let expr = self.postfix()?;
        Ok(if negative { Expr::Negative(Box::new(expr)) } else { expr })
    }

    fn postfix(&mut self) -> Result<Expr, CondError> {
        let mut expr = self.atom()?;
        while self.symbol(".") {
            let Token::Name(name) = *self.peek() else { return Err(self.unexpected("a method's name")) };
            self.next();
            if !self.symbol("(") {
                return Err(self.unexpected("`(`"));
            }
            let arguments = self.list(")")?.0;
            expr = Expr::Method { receiver: Box::new(expr), name: name.into(), arguments };
        }
        Ok(expr)
    }

    fn atom(&mut self) -> Result<Expr, CondError> {
        match self.peek().clone() {
            Token::Name("None") => {
                self.next();
                Ok(Expr::None)
            }
            Token::Name(name) if !KEYWORDS.contains(&name) => {
                self.next();
                Ok(Expr::Name(name.into()))
            }
            Token::Text(mut text) => {
                self.next();
                // Adjacent literals are one, as in Python.
                while let Token::Text(more) = self.peek() {
                    text.push_str(more);
                    self.next();
                }
                Ok(Expr::Text(text.into()))
            }
            Token::Int(value) => {
                self.next();
                Ok(Expr::Int(value))
            }
            Token::Float(value) => {
                self.next();
                Ok(Expr::Float(value))
            }
            Token::Symbol("[") => {
                self.next();
                Ok(Expr::List(self.list("]")?.0))
            }
            Token::Symbol("(") => {
                self.next();
                let (mut items, comma) = self.list(")")?;
                match items.pop() {
                    Some(only) if items.is_empty() && !comma => Ok(only),
                    last => Ok(Expr::List(items.into_iter().chain(last).collect())),
                }
            }
            _ => Err(self.unexpected("an attribute, a text, a number or `(`")),
        }
    }

    /// Expressions up to `close`, and whether a comma was among them.
    fn list(&mut self, close: &str) -> Result<(Vec<Expr>, bool), CondError> {
        let (mut items, mut comma) = (Vec::new(), false);
        loop {
            if self.symbol(close) {
                return Ok((items, comma));
            }
            if !items.is_empty() && !comma {
                return Err(self.unexpected(&format!("`,` or `{close}`")));
            }
            items.push(self.ternary()?);
            let here = self.symbol(",");
            comma |= here;
            if !here {
                return if self.symbol(close) {
                    Ok((items, comma))
                } else {
                    Err(self.unexpected(&format!("`,` or `{close}`")))
                };
            }
        }
    }
}

fn single(mut all: Vec<Expr>, many: fn(Vec<Expr>) -> Expr) -> Expr {
    match all.pop() {
        Some(only) if all.is_empty() => only,
        last => many(all.into_iter().chain(last).collect()),
    }
}
