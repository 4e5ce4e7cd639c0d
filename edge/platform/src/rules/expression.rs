//! One CEL expression of a rule: parsed, checked against the path, evaluated on held signals.
//!
//! A rule's language is a part of CEL chosen so that an evaluation is pure and its cost bounded by
//! the expression's length: numbers, texts, comparisons, logic, arithmetic, `?:`, `in`, `has()`,
//! list literals and one level of `all/exists/exists_one/map/filter` over them. There is no clock,
//! no randomness, no regular expression, and no map to walk in random order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr};
use cel::common::types::{CelBool, CelDouble, CelInt, CelUInt};
use cel::common::value::CowVal;
use cel::{Context, Env, ExecutionError, IdedExpr, Program, Value};

use super::ExtractorSignals;
use super::check;
use super::signals::HeldMaps;

/// Longest expression, bytes. Parsing recurses once per link of a chain such as `1+1+1…`; a
/// kilobyte of the worst such chain was seen to need under 1 MiB of stack, half a thread's.
pub const MAX_EXPRESSION_BYTES: usize = 1000;
/// Deepest nesting of brackets.
const MAX_BRACKETS: usize = 16;
/// Deepest tree; an evaluation recurses this deep on the path thread.
const MAX_DEPTH: usize = 64;

/// A signal an expression names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Read {
    /// Index of the extractor in the path.
    pub extractor: usize,
    /// The signal, e.g. `count` or `count@door`.
    pub signal: Arc<str>,
    /// `extractor.signal`.
    pub full: Arc<str>,
}

impl Read {
    /// The zone of a zone signal.
    pub fn zone(&self) -> Option<&str> {
        self.signal.split_once('@').map(|(_, zone)| zone)
    }
}

/// An expression ready to run.
#[derive(Debug)]
pub(super) struct Expression {
    program: Program,
    /// Every signal it names, in the order it names them, once each.
    pub reads: Vec<Read>,
    /// Every extractor it names, likewise; also those it reads through computed keys only.
    pub extractors: Vec<usize>,
}

/// What an expression must give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Bool,
    Number,
}

impl Expression {
    /// Parses and checks `text`; the error is a message for the user.
    pub fn compile(
        env: &Arc<Env>,
        text: &str,
        path: &[ExtractorSignals],
        wanted: Wanted,
    ) -> Result<Self, String> {
        let program = parse(env, text)?;
        let (reads, extractors) = check::names(&program, path)?;
        check::types(env, &program, path, &reads, wanted)?;
        Ok(Self {
            program,
            reads,
            extractors,
        })
    }

    /// The signal it names as `key` that is not held.
    pub fn missing(&self, key: &str, maps: &HeldMaps) -> Option<&Read> {
        self.reads.iter().find(|read| {
            *read.signal == *key && maps.0[read.extractor].get_signal(&read.signal).is_none()
        })
    }

    /// Whether the condition holds.
    pub fn truth(&self, cx: &Context<'_, '_>) -> Result<bool, ExecutionError> {
        let value = evaluate(self.program.expression(), cx)?;
        let truth = value.downcast_ref::<CelBool>().map(|b| *b.inner());
        truth.ok_or_else(|| wrong_type(&value, "bool"))
    }

    /// The number it gives.
    pub fn number(&self, cx: &Context<'_, '_>) -> Result<f64, ExecutionError> {
        let value = evaluate(self.program.expression(), cx)?;
        match as_number(&value) {
            Some(n) if n.is_nan() => Err(ExecutionError::function_error(
                "score",
                "the result is not a number",
            )),
            Some(n) => Ok(n),
            None => Err(wrong_type(&value, "number")),
        }
    }
}

fn wrong_type(value: &CowVal<'_, '_>, want: &str) -> ExecutionError {
    ExecutionError::UnexpectedType {
        got: value.get_type().name().to_owned(),
        want: want.to_owned(),
    }
}

/// A CEL number as f64.
#[expect(
    clippy::cast_precision_loss,
    reason = "a score is clamped to 0-1 afterwards"
)]
pub(super) fn as_number(value: &CowVal<'_, '_>) -> Option<f64> {
    None.or_else(|| value.downcast_ref::<CelDouble>().map(|d| *d.inner()))
        .or_else(|| value.downcast_ref::<CelInt>().map(|i| *i.inner() as f64))
        .or_else(|| value.downcast_ref::<CelUInt>().map(|u| *u.inner() as f64))
}

/// The environment all expressions of a fusion share: the standard functions and macros, without
/// optional values.
pub(super) fn environment() -> Arc<Env> {
    Arc::new(Env::stdlib().with_optional_support(false))
}

/// A context in which the extractors of `maps` are variables. Cheap: it borrows.
pub(super) fn context<'v>(env: &Arc<Env>, maps: &'v HeldMaps) -> Context<'v, 'v> {
    let mut cx = Context::with_env(Arc::clone(env));
    cx.set_variable_resolver(maps);
    cx
}

/// Evaluates one node. A panic inside the interpreter is an error of this evaluation.
pub(super) fn evaluate<'e, 'v>(
    expr: &'e IdedExpr,
    cx: &'e Context<'_, 'v>,
) -> Result<CowVal<'e, 'v>, ExecutionError> {
    catch_unwind(AssertUnwindSafe(|| Value::resolve_val(expr, cx))).unwrap_or_else(|_| {
        Err(ExecutionError::InternalError(
            "the evaluation panicked".to_owned(),
        ))
    })
}

fn parse(env: &Env, text: &str) -> Result<Program, String> {
    if text.len() > MAX_EXPRESSION_BYTES {
        return Err(format!(
            "the expression has {} bytes, at most {MAX_EXPRESSION_BYTES}: split it into several \
             rules",
            text.len()
        ));
    }
    let mut open = 0_usize;
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_BRACKETS {
            return Err(format!("brackets nest more than {MAX_BRACKETS} deep"));
        }
    }
    // The parser is generated code with its own recovery; should it panic, that is this text's
    // error, not the appliance's end.
    let parsed = catch_unwind(AssertUnwindSafe(|| env.compile(text)));
    let program = match parsed {
        Ok(Ok(program)) => program,
        Ok(Err(errors)) => {
            return Err(match errors.errors.first() {
                Some(e) => syntax_error(text, e.pos, &e.msg),
                None => "not a CEL expression".to_owned(),
            });
        }
        Err(_) => return Err("not a CEL expression (the parser gave up on it)".to_owned()),
    };
    if deeper_than(program.expression(), MAX_DEPTH) {
        return Err(format!(
            "operators nest or chain more than {MAX_DEPTH} deep: split it into several rules"
        ));
    }
    Ok(program)
}

fn deeper_than(node: &IdedExpr, limit: usize) -> bool {
    let Some(limit) = limit.checked_sub(1) else {
        return true;
    };
    let deeper = |e: &IdedExpr| deeper_than(e, limit);
    match &node.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => false,
        Expr::Call(call) => {
            call.target.as_deref().is_some_and(deeper) || call.args.iter().any(deeper)
        }
        Expr::Select(select) => deeper(&select.operand),
        Expr::List(list) => list.elements.iter().any(deeper),
        Expr::Comprehension(c) => [
            &c.iter_range,
            &c.accu_init,
            &c.loop_cond,
            &c.loop_step,
            &c.result,
        ]
        .into_iter()
        .any(deeper),
        Expr::Map(map) => entries_deeper(&map.entries, limit),
        Expr::Struct(s) => entries_deeper(&s.entries, limit),
    }
}

fn entries_deeper(entries: &[cel::common::ast::IdedEntryExpr], limit: usize) -> bool {
    entries.iter().any(|entry| match &entry.expr {
        EntryExpr::StructField(field) => deeper_than(&field.value, limit),
        EntryExpr::MapEntry(e) => deeper_than(&e.key, limit) || deeper_than(&e.value, limit),
    })
}

/// The parser's first complaint, where it is, and what people usually meant.
fn syntax_error(text: &str, (line, column): (isize, isize), msg: &str) -> String {
    let msg = msg.strip_prefix("Syntax error: ").unwrap_or(msg);
    if msg.contains("Recursion limit") {
        return "operators or brackets nest too deep: split it into several rules".to_owned();
    }
    // The list of every token that could have followed helps nobody.
    let msg = msg.split(" expecting ").next().unwrap_or(msg);
    let mut msg = msg.replace("mismatched input '<EOF>'", "it ends too early");
    for jargon in [
        "token recognition error at:",
        "mismatched input",
        "extraneous input",
    ] {
        msg = msg.replace(jargon, "unexpected");
    }
    let at = match (line, column) {
        (1, column) if column > 0 => format!("column {column}: "),
        (line, column) if line > 0 && column > 0 => format!("line {line}, column {column}: "),
        _ => String::new(),
    };
    format!("{at}not a CEL expression: {msg}{}", meant(text, &msg))
}

fn meant(text: &str, msg: &str) -> &'static str {
    let word = |w: &str| {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .any(|part| part.eq_ignore_ascii_case(w))
    };
    if msg.contains("'=") {
        "; equality is ==, at least is >="
    } else if msg.contains("'@") {
        "; a zone signal is written person[\"count@door\"]"
    } else if msg.contains("'&") || word("and") {
        "; CEL writes && for and"
    } else if msg.contains("'|") || word("or") {
        "; CEL writes || for or"
    } else if word("not") {
        "; CEL writes ! for not"
    } else {
        ""
    }
}
