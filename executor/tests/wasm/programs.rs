//! Programs for the tests of the WASM runtime, as text.
//!
//! Each is [`module`] around a body that may use its imports and helpers. Descriptor 3 is the work
//! directory as `.`, 4 the same as `/`.
#![allow(clippy::unwrap_used, dead_code)]

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Imports and helpers. Below 1024 is the helpers' own memory, from 1024 on the program's.
const PRELUDE: &str = r#"
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read"
    (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file"
    (func $path_unlink_file (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename"
    (func $path_rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get"
    (func $path_filestat_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get"
    (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))

  ;; Ends with exit code 1 unless $errno is 0.
  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $exit (i32.const 1)))))

  ;; Writes all of the bytes; exit code 1 when that fails.
  (func $write (param $fd i32) (param $at i32) (param $length i32)
    (loop $more
      (if (local.get $length) (then
        (i32.store (i32.const 0) (local.get $at))
        (i32.store (i32.const 4) (local.get $length))
        (call $check (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
        (local.set $at (i32.add (local.get $at) (i32.load (i32.const 8))))
        (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 8))))
        (br $more)))))

  ;; Reads up to $length bytes; returns how many.
  (func $read (param $fd i32) (param $at i32) (param $length i32) (result i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (call $check (call $fd_read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.load (i32.const 8)))

  ;; Opens a path with all rights; returns the errno, and the descriptor at 16.
  (func $open (param $dir i32) (param $at i32) (param $length i32) (param $oflags i32) (result i32)
    (call $path_open (local.get $dir) (i32.const 1) (local.get $at) (local.get $length)
      (local.get $oflags) (i64.const 0x1fffffff) (i64.const 0x1fffffff) (i32.const 0)
      (i32.const 16)))

  ;; Sleeps.
  (func $sleep (param $nanoseconds i64)
    (memory.fill (i32.const 32) (i32.const 0) (i32.const 48))
    (i32.store (i32.const 48) (i32.const 1)) ;; the monotonic clock
    (i64.store (i32.const 56) (local.get $nanoseconds))
    (call $check (call $poll_oneoff (i32.const 32) (i32.const 96) (i32.const 1) (i32.const 128))))

  ;; Length of the text that ends with a zero byte.
  (func $length (param $at i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $at))
    (block $done (loop $more
      (br_if $done (i32.eqz (i32.load8_u (local.get $end))))
      (local.set $end (i32.add (local.get $end) (i32.const 1)))
      (br $more)))
    (i32.sub (local.get $end) (local.get $at)))
"#;

/// A module with a memory of 4 pages, the prelude, and `body`.
pub fn module(body: &str) -> Vec<u8> {
    let text = format!("(module {PRELUDE} (memory (export \"memory\") 4) {body})");
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// A module whose `_start` is `body`.
pub fn start(body: &str) -> Vec<u8> {
    module(&format!("(func (export \"_start\") {body})"))
}

/// Ends at once.
pub fn noop() -> Vec<u8> {
    wat::parse_str("(module (memory (export \"memory\") 1) (func (export \"_start\")))").unwrap()
}

/// Ends with `code`.
pub fn exit(code: u32) -> Vec<u8> {
    start(&format!("(call $exit (i32.const {code}))"))
}

/// Writes `started\n`, then uses CPU for ever.
pub fn spin() -> Vec<u8> {
    module(
        r#"(data (i32.const 1024) "started\n")
           (func (export "_start")
             (call $write (i32.const 1) (i32.const 1024) (i32.const 8))
             (loop $more (br $more)))"#,
    )
}

/// Writes `started\n`, then sleeps for ever.
pub fn idle() -> Vec<u8> {
    module(
        r#"(data (i32.const 1024) "started\n")
           (func (export "_start")
             (call $write (i32.const 1) (i32.const 1024) (i32.const 8))
             (loop $more
               (call $sleep (i64.const 3600000000000))
               (br $more)))"#,
    )
}

/// Writes `early\n`, waits for the file `go`, writes `late\n` to stderr.
pub fn converse() -> Vec<u8> {
    module(
        r#"(data (i32.const 1024) "early\n") (data (i32.const 1040) "late\n")
           (data (i32.const 1056) "go")
           (func (export "_start")
             (call $write (i32.const 1) (i32.const 1024) (i32.const 6))
             (block $there (loop $more
               (br_if $there (i32.eqz (call $path_filestat_get (i32.const 3) (i32.const 1)
                 (i32.const 1056) (i32.const 2) (i32.const 1072))))
               (call $sleep (i64.const 5000000))
               (br $more)))
             (call $write (i32.const 2) (i32.const 1040) (i32.const 5)))"#,
    )
}

/// Writes its arguments but the first, then the value of the only variable, whose name has 8 bytes.
pub fn echo() -> Vec<u8> {
    module(
        r#"(func $line (param $at i32) (local $length i32)
             (local.set $length (call $length (local.get $at)))
             (i32.store8 (i32.add (local.get $at) (local.get $length)) (i32.const 10))
             (call $write (i32.const 1) (local.get $at)
               (i32.add (local.get $length) (i32.const 1))))
           (func (export "_start") (local $index i32)
             (call $check (call $args_sizes_get (i32.const 16) (i32.const 20)))
             (call $check (call $args_get (i32.const 1024) (i32.const 4096)))
             (local.set $index (i32.const 1))
             (block $done (loop $more
               (br_if $done (i32.ge_u (local.get $index) (i32.load (i32.const 16))))
               (call $line (i32.load (i32.add (i32.const 1024)
                 (i32.mul (local.get $index) (i32.const 4)))))
               (local.set $index (i32.add (local.get $index) (i32.const 1)))
               (br $more)))
             (call $check (call $environ_get (i32.const 1024) (i32.const 8192)))
             (call $line (i32.add (i32.load (i32.const 1024)) (i32.const 9))))"#,
    )
}

/// Copies `in/data.bin` to `out/data.bin`.
pub fn copy() -> Vec<u8> {
    module(
        r#"(data (i32.const 1024) "in/data.bin") (data (i32.const 1040) "out/data.bin")
           (func (export "_start") (local $from i32) (local $to i32) (local $length i32)
             (call $check (call $open (i32.const 3) (i32.const 1024) (i32.const 11) (i32.const 0)))
             (local.set $from (i32.load (i32.const 16)))
             (call $check (call $open (i32.const 4) (i32.const 1040) (i32.const 12) (i32.const 9)))
             (local.set $to (i32.load (i32.const 16)))
             (loop $more
               (local.set $length
                 (call $read (local.get $from) (i32.const 65536) (i32.const 65536)))
               (call $write (local.get $to) (i32.const 65536) (local.get $length))
               (br_if $more (local.get $length)))
             (call $check (call $fd_close (local.get $to))))"#,
    )
}

/// Ends with 0 when stdin is at its end.
pub fn stdin() -> Vec<u8> {
    start("(call $exit (call $read (i32.const 0) (i32.const 1024) (i32.const 16)))")
}

/// Takes memory until it gets no more, and ends with 1.
pub fn memory_bomb() -> Vec<u8> {
    start(
        "(local $at i32)
         (loop $more
           (local.set $at (memory.grow (i32.const 16)))
           (if (i32.eq (local.get $at) (i32.const -1)) (then (call $exit (i32.const 1))))
           (memory.fill (i32.mul (local.get $at) (i32.const 65536)) (i32.const 1)
             (i32.const 1048576))
           (br $more))",
    )
}

/// Writes `kib` KiB of zero bytes.
pub fn flood(kib: u64) -> Vec<u8> {
    assert_eq!(kib % 64, 0);
    start(&format!(
        "(local $left i32)
         (local.set $left (i32.const {}))
         (loop $more
           (call $write (i32.const 1) (i32.const 65536) (i32.const 65536))
           (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))",
        kib / 64
    ))
}

/// Writes to `big` until that fails, and ends with 1.
pub fn fill_disk() -> Vec<u8> {
    module(
        r#"(data (i32.const 1024) "big")
           (func (export "_start") (local $file i32)
             (call $check (call $open (i32.const 3) (i32.const 1024) (i32.const 3) (i32.const 1)))
             (local.set $file (i32.load (i32.const 16)))
             (loop $more
               (call $write (local.get $file) (i32.const 65536) (i32.const 65536))
               (br $more)))"#,
    )
}

/// Writes the bytes `ff 00 fe`.
pub fn binary() -> Vec<u8> {
    module(
        r#"(data (i32.const 1024) "\ff\00\fe")
           (func (export "_start") (call $write (i32.const 1) (i32.const 1024) (i32.const 3)))"#,
    )
}

/// Tries to open each path below `.` and `/`, to read and to write; ends with 0 when all fail.
pub fn break_out(paths: &[&str]) -> Vec<u8> {
    let (mut data, mut calls) = (String::new(), String::new());
    let mut at = 1024;
    for path in paths {
        data += &format!("(data (i32.const {at}) {path:?})");
        for dir in [3, 4] {
            for oflags in [0, 1] {
                calls += &format!(
                    "(if (i32.eqz (call $open (i32.const {dir}) (i32.const {at}) (i32.const {}) \
                     (i32.const {oflags}))) (then (call $exit (i32.const 9))))",
                    path.len()
                );
            }
        }
        at += path.len();
    }
    module(&format!("{data} (func (export \"_start\") {calls})"))
}

/// Program files in a folder of their own.
#[derive(Debug)]
pub struct Shelf {
    folder: TempDir,
}

impl Shelf {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Puts a program there, once.
    pub fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        if !path.exists() {
            std::fs::write(&path, bytes).unwrap();
        }
        path
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}
