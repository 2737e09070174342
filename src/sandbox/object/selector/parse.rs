//! The grammar of label selectors, with the API server's words for what it cannot read.

use super::SelectorError;
use super::labels::{Operator, Requirement};
use crate::sandbox::object::builtin::names;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(text) => text,
            Self::Sign(sign) => sign,
            Self::End => "",
        }
    }
}

/// Signs, longer ones first.
const SIGNS: &[&str] = &["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            found.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            let special = |character: char| character.is_whitespace() || "=!(),><".contains(character);
            let end = rest.find(special).unwrap_or(rest.len());
            found.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    found
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
}

impl Parser {
    fn peek(&self) -> Token {
        self.tokens.get(self.next).cloned().unwrap_or(Token::End)
    }

    fn take(&mut self) -> Token {
        let token = self.peek();
        self.next += 1;
        token
    }
}

fn expected(found: &Token, what: &str) -> String {
    format!("found '{}', expected: {what}", found.text())
}

/// Parses a selector string.
pub(super) fn label_requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: tokens(text), next: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            Token::End => return Ok(requirements),
            Token::Word(_) | Token::Sign("!") => {}
            other => return Err(SelectorError(expected(&other, "!, identifier, or 'end of string'"))),
        }
        let parsed = requirement(&mut parser)
            .map_err(|problem| SelectorError(format!("unable to parse requirement: {problem}")))?;
        requirements.push(parsed);
        match parser.take() {
            Token::End => return Ok(requirements),
            Token::Sign(",") => match parser.peek() {
                Token::Word(_) | Token::Sign("!") => {}
                other => return Err(SelectorError(expected(&other, "identifier after ','"))),
            },
            other => return Err(SelectorError(expected(&other, "',' or 'end of string'"))),
        }
    }
}

fn requirement(parser: &mut Parser) -> Result<Requirement, String> {
    let mut first = parser.take();
    let absent = first == Token::Sign("!");
    if absent {
        first = parser.take();
    }
    let Token::Word(key) = first else { return Err(expected(&first, "identifier")) };
    check_key(&key)?;
    if absent {
        return Ok(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
    }
    if matches!(parser.peek(), Token::End | Token::Sign(",")) {
        return Ok(Requirement { key, operator: Operator::Exists, values: Vec::new() });
    }
    let token = parser.take();
    let operator = match &token {
        Token::Sign("=" | "==") => Operator::Equals,
        Token::Sign("!=") => Operator::NotEquals,
        Token::Sign(">") => Operator::GreaterThan,
        Token::Sign("<") => Operator::LessThan,
        Token::Word(word) if word == "in" => Operator::In,
        Token::Word(word) if word == "notin" => Operator::NotIn,
        other => return Err(expected(other, "in, notin, =, ==, !=, gt, lt")),
    };
    let values = match operator {
        Operator::In | Operator::NotIn => value_list(parser)?,
        _ => vec![exact_value(parser)?],
    };
    check_values(&key, operator, &values)?;
    Ok(Requirement { key, operator, values })
}

fn exact_value(parser: &mut Parser) -> Result<String, String> {
    if matches!(parser.peek(), Token::End | Token::Sign(",")) {
        return Ok(String::new());
    }
    match parser.take() {
        Token::Word(value) => Ok(value),
        other => Err(expected(&other, "identifier")),
    }
}

fn value_list(parser: &mut Parser) -> Result<Vec<String>, String> {
    let open = parser.take();
    if open != Token::Sign("(") {
        return Err(expected(&open, "'('"));
    }
    let mut values = Vec::new();
    loop {
        match parser.take() {
            Token::Word(value) => {
                values.push(value);
                match parser.take() {
                    Token::Sign(",") if parser.peek() == Token::Sign(")") => values.push(String::new()),
                    Token::Sign(",") => {}
                    Token::Sign(")") => return Ok(values),
                    other => return Err(expected(&other, "',' or ')'")),
                }
            }
            Token::Sign(",") => values.push(String::new()),
            Token::Sign(")") => return Ok(values),
            other => return Err(expected(&other, "',', ')' or identifier")),
        }
    }
}

fn check_key(key: &str) -> Result<(), String> {
    match names::qualified(key).into_iter().next() {
        Some(problem) => Err(format!("<nil>: Invalid value: {key:?}: {problem}")),
        None => Ok(()),
    }
}

fn check_values(key: &str, operator: Operator, values: &[String]) -> Result<(), String> {
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            return Err("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                .to_owned());
        }
        Operator::GreaterThan | Operator::LessThan
            if values.iter().any(|value| value.parse::<i64>().is_err()) =>
        {
            return Err(format!(
                "values[0]: Invalid value: {:?}: for 'Gt', 'Lt' operators, the value must be an integer",
                values.first().map(String::as_str).unwrap_or_default()
            ));
        }
        _ => {}
    }
    for (index, value) in values.iter().enumerate() {
        if let Some(problem) = names::label_value(value).into_iter().next() {
            return Err(format!("values[{index}][{key}]: Invalid value: {value:?}: {problem}"));
        }
    }
    Ok(())
}
