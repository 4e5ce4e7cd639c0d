//! What `validate` finds wrong with an expression before any frame: names no extractor has, and
//! operands CEL will not take.

use std::sync::Arc;

use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};
use cel::common::types::CelBool;
use cel::common::value::CowVal;
use cel::{Context, Env, ExecutionError, IdedExpr, OverloadError, Program, Value};

use super::ExtractorSignals;
use super::config::hint;
use super::expression::{Read, Wanted, as_number, context, evaluate};
use super::signals::{HeldMap, HeldMaps};

/// The functions rules may call; the macros are `has, all, exists, exists_one, map, filter`.
const FUNCTIONS: [&str; 9] = [
    "bool",
    "contains",
    "double",
    "endsWith",
    "int",
    "size",
    "startsWith",
    "string",
    "uint",
];
const MACROS: [&str; 6] = ["has", "all", "exists", "exists_one", "map", "filter"];

/// Signals the platform supplies for every extractor.
const SUPPLIED: [&str; 2] = ["count", "max_confidence"];

type Checked<T> = Result<T, String>;

/// Checks every name in `program` and returns the signals it reads and the extractors it names.
pub(super) fn names(
    program: &Program,
    path: &[ExtractorSignals],
) -> Checked<(Vec<Read>, Vec<usize>)> {
    let mut walk = Names {
        program,
        path,
        bound: Vec::new(),
        in_loop: false,
        reads: Vec::new(),
        extractors: Vec::new(),
    };
    walk.node(program.expression())?;
    Ok((walk.reads, walk.extractors))
}

struct Names<'a> {
    program: &'a Program,
    path: &'a [ExtractorSignals],
    /// Variables of the loop we are in.
    bound: Vec<&'a str>,
    in_loop: bool,
    reads: Vec<Read>,
    extractors: Vec<usize>,
}

impl<'a> Names<'a> {
    fn node(&mut self, node: &'a IdedExpr) -> Checked<()> {
        match &node.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) if self.is_bound(name) => Ok(()),
            Expr::Ident(name) => {
                let extractor = &self.path[self.extractor(node, name)?];
                let example = extractor.signals.first().map_or("count", String::as_str);
                Err(self.at(
                    node,
                    &format!(
                        "`{name}` is an extractor, not a number: name one of its signals, e.g. \
                         `{name}.{example}`"
                    ),
                ))
            }
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(root) if !self.is_bound(root) => {
                    let extractor = self.extractor(&select.operand, root)?;
                    self.read(&select.operand, extractor, &select.field)
                }
                _ => self.node(&select.operand),
            },
            Expr::Call(call) => self.call(node, call),
            Expr::List(list) => list.elements.iter().try_for_each(|e| self.node(e)),
            Expr::Comprehension(c) => {
                if self.in_loop {
                    return Err(self.at(
                        node,
                        "all, exists, exists_one, map and filter can't be \
                                              nested or chained in a rule",
                    ));
                }
                self.in_loop = true;
                self.node(&c.iter_range)?;
                self.bound = vec![&c.iter_var, &c.accu_var];
                self.bound.extend(c.iter_var2.as_deref());
                for part in [&c.accu_init, &c.loop_cond, &c.loop_step, &c.result] {
                    self.node(part)?;
                }
                self.bound.clear();
                self.in_loop = false;
                Ok(())
            }
            Expr::Map(_) => Err(self.at(node, "map literals are not part of the rule language")),
            Expr::Struct(s) => Err(self.at(
                node,
                &format!(
                    "`{}{{…}}`: messages are not part of the rule language",
                    s.type_name
                ),
            )),
            Expr::Unspecified => Err(self.at(node, "not a complete expression")),
        }
    }

    fn call(&mut self, node: &'a IdedExpr, call: &'a CallExpr) -> Checked<()> {
        // `person["count@door"]` and `"count@door" in person`: the two places where an extractor
        // may stand without a dot.
        let keyed = match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::INDEX, [map, key]) | (operators::IN, [key, map]) => Some((map, key)),
            _ => None,
        };
        if let Some((map, key)) = keyed
            && let Expr::Ident(root) = &map.expr
            && !self.is_bound(root)
        {
            let extractor = self.extractor(map, root)?;
            return match &key.expr {
                Expr::Literal(LiteralValue::String(signal)) => {
                    self.read(map, extractor, signal.inner())
                }
                Expr::Literal(_) => Err(self.at(
                    key,
                    &format!("a signal's name is a text: {root}[\"count\"]"),
                )),
                _ => {
                    self.note_extractor(extractor);
                    self.node(key)
                }
            };
        }
        let is_operator = call
            .func_name
            .contains(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        if !is_operator && !FUNCTIONS.contains(&call.func_name.as_str()) {
            let known: Vec<&str> = FUNCTIONS.into_iter().chain(MACROS).collect();
            return Err(self.at(
                node,
                &format!(
                    "unknown function `{}`; there are {}{}",
                    call.func_name,
                    known.join(", "),
                    hint(&call.func_name, &known)
                ),
            ));
        }
        call.target.iter().try_for_each(|t| self.node(t))?;
        call.args.iter().try_for_each(|a| self.node(a))
    }

    fn is_bound(&self, name: &str) -> bool {
        self.bound.contains(&name)
    }

    fn extractor(&mut self, node: &IdedExpr, name: &str) -> Checked<usize> {
        if let Some(index) = self.path.iter().position(|e| e.name == *name) {
            self.note_extractor(index);
            return Ok(index);
        }
        let known: Vec<&str> = self.path.iter().map(|e| e.name.as_str()).collect();
        Err(self.at(
            node,
            &format!(
                "`{name}` is not an extractor of this path; there {}{}",
                listed("is", "are", &known, "none"),
                hint(name, &known)
            ),
        ))
    }

    fn note_extractor(&mut self, index: usize) {
        if !self.extractors.contains(&index) {
            self.extractors.push(index);
        }
    }

    fn read(&mut self, node: &IdedExpr, extractor: usize, signal: &str) -> Checked<()> {
        let of = &self.path[extractor];
        if let Err(message) = of.check_signal(signal) {
            return Err(self.at(node, &message));
        }
        let full: Arc<str> = format!("{}.{signal}", of.name).into();
        if !self.reads.iter().any(|r| r.full == full) {
            self.reads.push(Read {
                extractor,
                signal: signal.into(),
                full,
            });
        }
        Ok(())
    }

    fn at(&self, node: &IdedExpr, message: &str) -> String {
        at(self.program, node, message)
    }
}

/// What rules ask of an extractor's declaration.
trait Declared {
    /// Whether `signal` can exist; the error is a message.
    fn check_signal(&self, signal: &str) -> Checked<()>;
    fn has(&self, signal: &str) -> bool;
    /// What it declares and what the platform supplies.
    fn base_names(&self) -> impl Iterator<Item = &str>;
    fn unknown(&self, signal: &str) -> String;
}

impl Declared for ExtractorSignals {
    fn check_signal(&self, signal: &str) -> Checked<()> {
        if self.signals.is_empty() || self.has(signal) {
            return Ok(());
        }
        let Some((base, zone)) = signal.split_once('@') else {
            return Err(self.unknown(signal));
        };
        if !self.has(base) {
            return Err(self.unknown(signal));
        }
        let zones: Vec<&str> = self.zones.iter().map(|z| z.as_str()).collect();
        if !zones.contains(&zone) {
            return Err(format!(
                "`{zone}` in `{}[\"{signal}\"]` is not a zone of its source; there {}{}",
                self.name,
                listed("is", "are", &zones, "none"),
                hint(zone, &zones)
            ));
        }
        if !is_counting(base) {
            let counting: Vec<String> = self
                .base_names()
                .filter(|s| is_counting(s))
                .map(|s| format!("{s}@{zone}"))
                .collect();
            let counting: Vec<&str> = counting.iter().map(String::as_str).collect();
            return Err(format!(
                "`{base}` of `{}` is not counted per zone; per zone there {}",
                self.name,
                listed("is", "are", &counting, "nothing")
            ));
        }
        Ok(())
    }

    fn has(&self, signal: &str) -> bool {
        self.base_names().any(|s| s == signal)
    }

    fn base_names(&self) -> impl Iterator<Item = &str> {
        let declared = self.signals.iter().map(String::as_str);
        declared.chain(
            SUPPLIED
                .into_iter()
                .filter(|s| !self.signals.iter().any(|d| d == s)),
        )
    }

    fn unknown(&self, signal: &str) -> String {
        let mut known: Vec<String> = self.base_names().map(str::to_owned).collect();
        let plain = known.len();
        for base in self.base_names().filter(|s| is_counting(s)) {
            known.extend(self.zones.iter().map(|z| format!("{base}@{z}")));
        }
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        format!(
            "`{}` has no signal `{signal}`; there {}{}",
            self.name,
            listed("is", "are", &known[..plain], "none"),
            hint(signal, &known)
        )
    }
}

/// Whether the platform also gives this signal per zone: counts, and motion's `score`.
fn is_counting(signal: &str) -> bool {
    signal == "count" || signal == "score" || signal.ends_with("_count")
}

/// "is `a`" or "are `a`, `b`", at most eight of them.
fn listed(is: &str, are: &str, names: &[&str], none: &str) -> String {
    const MOST: usize = 8;
    let shown: Vec<String> = names.iter().take(MOST).map(|n| format!("`{n}`")).collect();
    let more = if names.len() > MOST { ", …" } else { "" };
    match names.len() {
        0 => format!("{is} {none}"),
        1 => format!("{is} {}", shown[0]),
        _ => format!("{are} {}{more}", shown.join(", ")),
    }
}

/// Runs `program` on dummy signals: as a whole, and every part of it by itself, so that `&&`, `||`
/// and `?:` can't hide a part that would fail on some later frame.
pub(super) fn types(
    env: &Arc<Env>,
    program: &Program,
    path: &[ExtractorSignals],
    reads: &[Read],
    wanted: Wanted,
) -> Checked<()> {
    for value in [1.0, 0.0] {
        let maps = dummies(path, reads, value);
        let cx = context(env, &maps);
        if value == 1.0 {
            Parts { program, cx: &cx }.node(program.expression())?;
        }
        match evaluate(program.expression(), &cx) {
            Ok(result) => check_result(&result, wanted)?,
            Err(ExecutionError::NoSuchKey(_)) => {}
            // With other values a guard such as `n != 0.0 && …` may well avoid it.
            Err(_) if value == 0.0 => {}
            Err(error) => {
                return Err(format!(
                    "fails when every signal is 1.0: {error}; guard it, e.g. `n != 0.0 && …`"
                ));
            }
        }
    }
    Ok(())
}

fn dummies(path: &[ExtractorSignals], reads: &[Read], value: f64) -> HeldMaps {
    let map = |(index, extractor): (usize, &ExtractorSignals)| {
        let declared = extractor.base_names().map(Arc::from);
        let read = reads.iter().filter(|r| r.extractor == index);
        let names = declared.chain(read.map(|r| Arc::clone(&r.signal)));
        HeldMap::dummy(extractor.name.clone(), names.collect(), value)
    };
    HeldMaps(path.iter().enumerate().map(map).collect())
}

fn check_result(result: &CowVal<'_, '_>, wanted: Wanted) -> Checked<()> {
    let got = result.get_type().name();
    match wanted {
        Wanted::Bool if result.downcast_ref::<CelBool>().is_none() => Err(format!(
            "gives {}, not true or false: compare it, e.g. with `> 0`",
            a(got)
        )),
        Wanted::Number if as_number(result).is_none() => {
            Err(format!("gives {}, not a number", a(got)))
        }
        _ => Ok(()),
    }
}

/// Evaluates the parts of an expression, innermost first.
struct Parts<'a> {
    program: &'a Program,
    cx: &'a Context<'a, 'a>,
}

impl Parts<'_> {
    fn node(&self, node: &IdedExpr) -> Checked<()> {
        match &node.expr {
            // A loop's body has variables of its own: it is tried with the loop.
            Expr::Comprehension(c) => self.node(&c.iter_range)?,
            Expr::Call(call) => {
                for part in call.target.iter().map(|t| &**t).chain(&call.args) {
                    if !matches!(part.expr, Expr::Ident(_)) {
                        self.node(part)?;
                    }
                }
                self.operands(node, call)?;
            }
            Expr::Select(select) if !matches!(select.operand.expr, Expr::Ident(_)) => {
                self.node(&select.operand)?;
            }
            Expr::List(list) => list.elements.iter().try_for_each(|e| self.node(e))?,
            _ => {}
        }
        let Err(error) = evaluate(node, self.cx) else {
            return Ok(());
        };
        let call = match &node.expr {
            Expr::Call(call) => Some(call),
            _ => None,
        };
        match type_error(&error, call) {
            Some(message) => Err(at(self.program, node, &message)),
            None => Ok(()),
        }
    }

    /// What CEL lets pass, but can only be a mistake: `&&` between numbers (its error is absorbed
    /// when the other side decides) and `==` between kinds that are never equal.
    fn operands(&self, node: &IdedExpr, call: &CallExpr) -> Checked<()> {
        let logical = match call.func_name.as_str() {
            operators::LOGICAL_AND => Some("&&"),
            operators::LOGICAL_OR => Some("||"),
            _ => None,
        };
        if let Some(symbol) = logical {
            for arg in &call.args {
                if let Ok(value) = evaluate(arg, self.cx)
                    && value.downcast_ref::<CelBool>().is_none()
                {
                    return Err(at(
                        self.program,
                        arg,
                        &needs_truth(symbol, value.get_type().name()),
                    ));
                }
            }
        }
        let equality = matches!(
            call.func_name.as_str(),
            operators::EQUALS | operators::NOT_EQUALS
        );
        if let (true, [left, right]) = (equality, call.args.as_slice())
            && let (Ok(left), Ok(right)) = (evaluate(left, self.cx), evaluate(right, self.cx))
        {
            let numbers = as_number(&left).is_some() && as_number(&right).is_some();
            let (l, r) = (left.get_type().name(), right.get_type().name());
            if !numbers && l != r {
                return Err(at(
                    self.program,
                    node,
                    &format!("{} and {} are never equal", a(l), a(r)),
                ));
            }
        }
        Ok(())
    }
}

fn needs_truth(symbol: &str, got: &str) -> String {
    let got = a(got);
    format!("`{symbol}` needs true or false, got {got}: compare it, e.g. with `> 0`")
}

/// The message for an error that does not depend on the signals' values; `None` for one that does.
fn type_error(error: &ExecutionError, call: Option<&CallExpr>) -> Option<String> {
    match error {
        ExecutionError::NoSuchKey(_)
        | ExecutionError::DivisionByZero(_)
        | ExecutionError::RemainderByZero(_)
        | ExecutionError::Overflow(..)
        | ExecutionError::IndexOutOfBounds(_)
        | ExecutionError::FunctionError { .. } => None,
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            Some(arithmetic_error(operator, left, right, call))
        }
        ExecutionError::NoSuchOverload(overload) => Some(overload_error(overload)),
        other => Some(other.to_string()),
    }
}

fn arithmetic_error(
    operator: &str,
    left: &Value,
    right: &Value,
    call: Option<&CallExpr>,
) -> String {
    let symbol = match operator {
        "add" => "+",
        "sub" => "-",
        "mul" => "*",
        "div" => "/",
        "rem" => "%",
        other => other,
    };
    let (l, r) = (type_name(left), type_name(right));
    let is_number = |v: &Value| matches!(v, Value::Float(_) | Value::Int(_) | Value::UInt(_));
    if symbol == "%" && is_number(left) && is_number(right) {
        return format!("`%` takes whole numbers, not {l} and {r}: write int(…) % 2");
    }
    if !is_number(left) || !is_number(right) || l == r {
        return format!("`{symbol}` can't take {} and {}", a(l), a(r));
    }
    let literal = call
        .into_iter()
        .flat_map(|c| &c.args)
        .find_map(|arg| match &arg.expr {
            Expr::Literal(LiteralValue::Int(i)) => Some(i.inner().to_string()),
            Expr::Literal(LiteralValue::UInt(u)) => Some(u.inner().to_string()),
            _ => None,
        });
    let fix = match literal {
        Some(digits) => format!("write `{digits}.0`"),
        None => "convert one side, e.g. double(…)".to_owned(),
    };
    format!("`{symbol}` does not mix {l} and {r} (signals are doubles): {fix}")
}

fn overload_error(overload: &OverloadError) -> String {
    let types = overload.argument_types();
    let function = overload.function();
    let symbol = function.trim_matches('_');
    match (function, types) {
        (
            operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS,
            [l, r],
        ) => {
            let chained = if l == "bool" {
                "; join two comparisons with &&"
            } else {
                ""
            };
            format!("`{symbol}` can't compare {} with {}{chained}", a(l), a(r))
        }
        (operators::LOGICAL_NOT | operators::LOGICAL_AND | operators::LOGICAL_OR, _) => {
            let got = types.iter().find(|t| *t != "bool").map_or("other", |t| t);
            needs_truth(symbol, got)
        }
        ("_._" | operators::INDEX, [of, _]) => {
            format!("{} has nothing inside: a signal is a number", a(of))
        }
        (operators::IN, [_, r]) => format!("`in` needs a list or an extractor, not {}", a(r)),
        (operators::NEGATE, [of]) => format!("`-` can't negate {}", a(of)),
        _ => format!("`{symbol}` can't take ({})", types.join(", ")),
    }
}

/// A type with its article.
fn a(type_name: &str) -> String {
    let article = if type_name.starts_with(['a', 'e', 'i', 'o']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {type_name}")
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Float(_) => "double",
        Value::Int(_) => "int",
        Value::UInt(_) => "uint",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::List(_) => "list",
        Value::Bytes(_) => "bytes",
        _ => "value of another type",
    }
}

/// `message` with the place of `node` in the expression.
fn at(program: &Program, node: &IdedExpr, message: &str) -> String {
    let info = program.source_info();
    let Some((start, _)) = info.offset_for(node.id) else {
        return message.to_owned();
    };
    let before: String = info.source.chars().take(start as usize).collect();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    if line == 1 {
        format!("column {column}: {message}")
    } else {
        format!("line {line}, column {column}: {message}")
    }
}
