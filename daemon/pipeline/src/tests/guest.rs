//! Guests made of WebAssembly text: a few lines of core module, turned into a component for the real contract.

use std::fmt::Write as _;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Where the answer of `process` lies. Memory is zero, and an answer of zeros is "all rows go on".
pub(super) const ANSWER: u32 = 1024;
/// `keep` and its payload within the answer.
const KEEP: u32 = ANSWER + 4;
const KEEP_PAYLOAD: u32 = KEEP + 4;
const DERIVED: u32 = KEEP + 68;
const REJECTED: u32 = DERIVED + 60;

/// Parameters of `process`: pointer and length of each column.
pub(super) const COLUMNS: [&str; 14] = [
    "names",
    "names_n",
    "series",
    "n",
    "time",
    "time_n",
    "kind",
    "kind_n",
    "bits",
    "bits_n",
    "texts",
    "texts_n",
    "quality",
    "quality_n",
];

/// A component that imports what `imports` declares and runs `body` as its `process`.
pub(super) fn guest(imports: &str, body: &str) -> Vec<u8> {
    guest_with(imports, "", body)
}

/// The same with further items of the core module.
pub(super) fn guest_with(imports: &str, items: &str, body: &str) -> Vec<u8> {
    guest_of(FIRST, imports, items, body)
}

/// The contract's first version, which guests are made for unless a test says otherwise.
pub(super) const FIRST: &str = include_str!("../../../../modules/wit/0.1.0/module.wit");
/// Its second one.
pub(super) const SECOND: &str = include_str!("../../../../modules/wit/0.2.0/module.wit");

/// The same for a version of the contract.
pub(super) fn guest_of(contract: &str, imports: &str, items: &str, body: &str) -> Vec<u8> {
    guest_in(contract, "filter", imports, items, body)
}

fn guest_in(contract: &str, world: &str, imports: &str, items: &str, body: &str) -> Vec<u8> {
    let mut parameters = String::new();
    for column in COLUMNS {
        write!(parameters, "(param ${column} i32) ").unwrap();
    }
    let text = format!(
        r#"(module
            {imports}
            (memory (export "memory") 32)
            (global $next (mut i32) (i32.const 65536))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (global.get $next))
                (global.set $next (i32.and
                    (i32.add (i32.add (local.get $at) (local.get 3)) (i32.const 7))
                    (i32.const -8)))
                (local.get $at))
            {items}
            (func $process (export "process") {parameters} (result i32) (local $i i32)
                {body}
                (i32.const {ANSWER})))"#
    );
    component(contract, world, &text)
}

/// A core module, as text, made a component of a world.
pub(super) fn component(contract: &str, world: &str, text: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("module.wit", contract).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .unwrap()
        .encode()
        .unwrap()
}

/// A filter whose `migrate` does this with the old state's columns and answers with them, as records of `width` bytes.
pub(super) fn migrating(imports: &str, migrate: &str, width: u32, body: &str) -> Vec<u8> {
    let parameters: String = [
        "version",
        "version_n",
        "names",
        "names_n",
        "width",
        "records",
        "records_n",
        "entries",
        "entries_n",
    ]
    .iter()
    .map(|name| format!("(param ${name} i32) "))
    .collect();
    let width = format!("(i32.const {width})");
    let answer = store(&[
        (ANSWER, "(i32.const 0)"),
        (ANSWER + 4, "(local.get $version)"),
        (ANSWER + 8, "(local.get $version_n)"),
        (ANSWER + 12, "(local.get $names)"),
        (ANSWER + 16, "(local.get $names_n)"),
        (ANSWER + 20, &width),
        (ANSWER + 24, "(local.get $records)"),
        (ANSWER + 28, "(local.get $records_n)"),
        (ANSWER + 32, "(local.get $entries)"),
        (ANSWER + 36, "(local.get $entries_n)"),
    ]);
    let item = format!(
        r#"(func (export "migrate") {parameters} (result i32) {migrate} {answer} (i32.const {ANSWER}))"#
    );
    let imports = imports.replace("@0.1.0", "@0.2.0");
    guest_in(SECOND, "migrating-filter", &imports, &item, body)
}

/// A filter that lets everything pass, and whose `tick` does this with `$now`, `$series` and `$n` and answers with what
/// then lies at [`ANSWER`]; see [`add_row`].
pub(super) fn ticking(imports: &str, tick: &str, process: &str) -> Vec<u8> {
    let item = format!(
        r#"(data (i32.const 400) "codeadded")
            (func (export "tick") (param $now i64) (param $series i32) (param $n i32) (result i32) (local $i i32)
                {tick} (i32.const {ANSWER}))"#
    );
    let imports = imports.replace("@0.1.0", "@0.2.0");
    guest_in(SECOND, "ticking-filter", &imports, &item, process)
}

/// `tick` adds one row: the integer 7, at `$now`, of a series whose name, a pointer and a length, lies at this place.
pub(super) fn add_row(name: &str) -> String {
    let lists: String = [
        (name, 1),
        ("(i32.const 6000)", 1),
        ("(i32.const 6008)", 1),
        ("(i32.const 6016)", 1),
        ("(i32.const 6024)", 1),
        ("(i32.const 0)", 0),
        ("(i32.const 6032)", 1),
    ]
    .iter()
    .zip((ANSWER + 4..).step_by(8))
    .map(|((list, length), at)| {
        let length = format!("(i32.const {length})");
        store(&[(at, list), (at + 4, &length)])
    })
    .collect();
    format!(
        "{lists} (i64.store (i32.const 6008) (local.get $now)) (i32.store8 (i32.const 6016) (i32.const 1))
         (i64.store (i32.const 6024) (i64.const 7))"
    )
}

/// The same of the series `added`.
pub(super) fn add_own_row() -> String {
    store(&[(7000, "(i32.const 404)"), (7004, "(i32.const 5)")]) + &add_row("(i32.const 7000)")
}

/// `keep = none`
pub(super) fn keep_none() -> String {
    store(&[(KEEP, "(i32.const 1)")])
}

/// All rows go on.
pub(super) fn pass() -> Vec<u8> {
    guest("", "")
}

/// Rows 0, 2, 4 … go on.
pub(super) fn every_second() -> Vec<u8> {
    guest(
        "",
        &format!(
            "(memory.fill (i32.const 8192) (i32.const 0x55) (i32.const 1024)) {}",
            keep_rows("(i32.shr_u (i32.add (local.get $n) (i32.const 7)) (i32.const 3))")
        ),
    )
}

/// `keep = rows` with a bitmap of so many bytes at 8192.
pub(super) fn keep_rows(bytes: &str) -> String {
    store(&[
        (KEEP, "(i32.const 2)"),
        (KEEP_PAYLOAD, "(i32.const 8192)"),
        (KEEP_PAYLOAD + 4, bytes),
    ])
}

/// `keep = changed`, with the input's own columns.
pub(super) fn keep_changed() -> String {
    store(&[(KEEP, "(i32.const 3)")]) + &columns(KEEP_PAYLOAD)
}

/// `keep = rows-changed`, with a bitmap at 8192 and the input's own columns.
pub(super) fn keep_rows_changed(bytes: &str) -> String {
    store(&[
        (KEEP, "(i32.const 4)"),
        (KEEP_PAYLOAD, "(i32.const 8192)"),
        (KEEP_PAYLOAD + 4, bytes),
    ]) + &columns(KEEP_PAYLOAD + 8)
}

/// `derived`: the input once more.
pub(super) fn derive_input() -> String {
    store(&[(DERIVED, "(i32.const 1)")]) + &columns(DERIVED + 4)
}

/// One rejected row, for the reason `bad`.
pub(super) fn reject(row: u32) -> String {
    let row = format!("(i32.const {row})");
    store(&[
        (REJECTED, "(i32.const 4096)"),
        (REJECTED + 4, "(i32.const 1)"),
        (4096, &row),
        (4100, "(i32.const 5000)"),
        (4104, "(i32.const 3)"),
        (5000, "(i32.const 0x646162)"),
    ])
}

/// The fault `bad`.
pub(super) fn fault() -> String {
    store(&[
        (ANSWER, "(i32.const 1)"),
        (ANSWER + 4, "(i32.const 5000)"),
        (ANSWER + 8, "(i32.const 3)"),
        (5000, "(i32.const 0x646162)"),
    ])
}

/// Text of `i32.store`s.
pub(super) fn store(stores: &[(u32, &str)]) -> String {
    stores
        .iter()
        .map(|(at, value)| format!("(i32.store (i32.const {at}) {value})\n"))
        .collect()
}

fn columns(at: u32) -> String {
    (at..)
        .step_by(4)
        .zip(COLUMNS)
        .map(|(at, column)| format!("(i32.store (i32.const {at}) (local.get ${column}))\n"))
        .collect()
}
