//! WASM modules for tests, written as text.

/// Ends at once with 0.
pub fn no_op() -> Vec<u8> {
    wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap()
}

/// Ends with `code`.
pub fn exit(code: i32) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") (call $exit (i32.const {code}))))"#
    ))
    .unwrap()
}

/// Writes `text` to stdout.
pub fn say(text: &str) -> Vec<u8> {
    let length = text.len();
    wat::parse_str(format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 16) "{}")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 16))
                (i32.store (i32.const 4) (i32.const {length}))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
        text.escape_default()
    ))
    .unwrap()
}

/// Sleeps for so many milliseconds, then says `done`.
pub fn sleep(millis: u64) -> Vec<u8> {
    let nanos = millis * 1_000_000;
    wat::parse_str(format!(
        r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 200) "done\n")
            (func (export "_start")
                ;; A subscription: tag 0 (clock), monotonic clock, relative time.
                (i32.store8 (i32.const 8) (i32.const 0))
                (i32.store (i32.const 16) (i32.const 1))
                (i64.store (i32.const 24) (i64.const {nanos}))
                (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
                (i32.store (i32.const 160) (i32.const 200))
                (i32.store (i32.const 164) (i32.const 5))
                (drop (call $write (i32.const 1) (i32.const 160) (i32.const 1) (i32.const 168)))))"#
    ))
    .unwrap()
}

/// Spins for ever.
pub fn spin() -> Vec<u8> {
    wat::parse_str(
        r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#,
    )
    .unwrap()
}

/// Copies the file `in.txt` to `out/out.txt`.
pub fn copy() -> Vec<u8> {
    wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 2)
            (data (i32.const 100) "in.txt")
            (data (i32.const 120) "out/out.txt")
            (func $must (param i32)
                (if (local.get 0) (then (call $exit (i32.add (i32.const 100) (local.get 0))))))
            (func (export "_start")
                ;; Descriptor 3 is the work directory. Read rights 2, write rights 64.
                (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 6)
                    (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0)))
                (i32.store (i32.const 8) (i32.const 1024))
                (i32.store (i32.const 12) (i32.const 60000))
                (call $must (call $read (i32.load (i32.const 0)) (i32.const 8) (i32.const 1) (i32.const 16)))
                ;; O_CREAT is 1.
                (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 120) (i32.const 11)
                    (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 4)))
                (i32.store (i32.const 12) (i32.load (i32.const 16)))
                (call $must (call $write (i32.load (i32.const 4)) (i32.const 8) (i32.const 1) (i32.const 20)))))"#,
    )
    .unwrap()
}

/// Writes zeros to stdout for ever, a frame of log at a time.
pub fn chatter() -> Vec<u8> {
    wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2)
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 16))
                (i32.store (i32.const 4) (i32.const 65536))
                (loop
                    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                    (br 0))))"#,
    )
    .unwrap()
}
