//! A small DEFLATE (RFC 1951) compressor: matches found by a hash table, one block with its own Huffman codes.
//!
//! The PNG writer calls [`compress`]. Not the best compression there is, but most of it in little code.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The window of the format.
const MAX_DISTANCE: usize = 32_768;
const MIN_MATCH: usize = 4;
const MAX_MATCH: usize = 258;
/// Entries of the table of recent positions: 2^15, as many as the window has places.
const HASH_BITS: u32 = 15;
/// Longest code the format can describe, for data and for the code lengths themselves.
const MAX_CODE_BITS: u8 = 15;
const MAX_LENGTH_CODE_BITS: u8 = 7;
/// The symbol that ends a block.
const END: u16 = 256;
/// The order in which the code length code's own lengths are written (RFC 1951, 3.2.7).
const LENGTH_ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// A byte, or a repetition of what came before.
enum Token {
    Literal(u8),
    Match { length: usize, distance: usize },
}

/// A symbol with the extra bits that follow it.
type Symbol = (u16, u32, u32);

/// The symbol of a match length (3..=258), its extra bits and their number.
fn length_symbol(length: usize) -> Symbol {
    if length == MAX_MATCH {
        return (285, 0, 0);
    }
    let (code, extra, bits) = bucket(length as u32 - 3, 4);
    (257 + code, extra, bits)
}

/// The symbol of a distance (1..=32768).
fn distance_symbol(distance: usize) -> Symbol {
    bucket(distance as u32 - 1, 2)
}

/// Both tables of the format double the width of their buckets after every `group` of them, two groups in.
fn bucket(value: u32, group: u32) -> Symbol {
    if value < 2 * group {
        return (value as u16, 0, 0);
    }
    let log_group = group.trailing_zeros();
    let bits = 31 - value.leading_zeros() - log_group;
    let code = (bits << log_group) + (value >> bits);
    (code as u16, value & ((1 << bits) - 1), bits)
}

/// The compressed form of `data`.
pub fn compress(data: &[u8]) -> Vec<u8> {
    let tokens = tokenize(data);
    let (mut literals, mut distances) = ([0u32; 286], [0u32; 30]);
    literals[END as usize] = 1;
    // The format wants at least one distance code, used or not.
    distances[0] = 1;
    for token in &tokens {
        match *token {
            Token::Literal(b) => literals[b as usize] += 1,
            Token::Match { length, distance } => {
                literals[length_symbol(length).0 as usize] += 1;
                distances[distance_symbol(distance).0 as usize] += 1;
            }
        }
    }
    let literal_lengths = code_lengths(&literals, MAX_CODE_BITS);
    let distance_lengths = code_lengths(&distances, MAX_CODE_BITS);
    let mut out = BitWriter::default();
    // The last block, with codes of its own.
    out.bits(1, 1);
    out.bits(2, 2);
    write_header(&mut out, &literal_lengths, &distance_lengths);
    let literal_codes = codes(&literal_lengths);
    let distance_codes = codes(&distance_lengths);
    for token in &tokens {
        match *token {
            Token::Literal(b) => out.code(literal_codes[b as usize]),
            Token::Match { length, distance } => {
                for ((symbol, extra, bits), codes) in [
                    (length_symbol(length), &literal_codes),
                    (distance_symbol(distance), &distance_codes),
                ] {
                    out.code(codes[symbol as usize]);
                    out.bits(extra, bits);
                }
            }
        }
    }
    out.code(literal_codes[END as usize]);
    out.finish()
}

/// Cuts the data into literals and matches, taking the latest match each time.
fn tokenize(data: &[u8]) -> Vec<Token> {
    let mut recent = vec![usize::MAX; 1 << HASH_BITS];
    let slot = |at: usize| {
        let word = u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
        (word.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize
    };
    let mut tokens = Vec::with_capacity(data.len());
    let mut at = 0;
    while at < data.len() {
        let mut length = 0;
        let mut from = usize::MAX;
        if at + MIN_MATCH <= data.len() {
            from = std::mem::replace(&mut recent[slot(at)], at);
            if from != usize::MAX && at - from <= MAX_DISTANCE {
                let limit = MAX_MATCH.min(data.len() - at);
                length = (0..limit)
                    .take_while(|&i| data[from + i] == data[at + i])
                    .count();
            }
        }
        if length < MIN_MATCH {
            tokens.push(Token::Literal(data[at]));
            at += 1;
            continue;
        }
        tokens.push(Token::Match {
            length,
            distance: at - from,
        });
        for i in at + 1..(at + length).min(data.len() + 1 - MIN_MATCH) {
            recent[slot(i)] = i;
        }
        at += length;
    }
    tokens
}

/// Huffman code lengths for the given counts, none longer than `limit`; 0 for a symbol that does not occur.
fn code_lengths(counts: &[u32], limit: u8) -> Vec<u8> {
    let mut counts = counts.to_vec();
    loop {
        let lengths = huffman(&counts);
        if lengths.iter().all(|&l| l <= limit) {
            return lengths;
        }
        // Flatter counts give a flatter tree; in the end all are alike.
        counts
            .iter_mut()
            .filter(|c| **c > 0)
            .for_each(|c| *c = *c / 2 + 1);
    }
}

fn huffman(counts: &[u32]) -> Vec<u8> {
    let mut parents = vec![0usize; counts.len()];
    let mut heap: BinaryHeap<Reverse<(u64, usize)>> = counts
        .iter()
        .enumerate()
        .filter(|(_, &c)| c > 0)
        .map(|(i, &c)| Reverse((u64::from(c), i)))
        .collect();
    let mut lengths = vec![0; counts.len()];
    if heap.len() == 1 {
        if let Some(Reverse((_, only))) = heap.pop() {
            lengths[only] = 1;
        }
        return lengths;
    }
    while let (Some(Reverse((a, left))), Some(Reverse((b, right)))) = (heap.pop(), heap.pop()) {
        let node = parents.len();
        parents.push(usize::MAX);
        parents[left] = node;
        parents[right] = node;
        if heap.is_empty() {
            break;
        }
        heap.push(Reverse((a + b, node)));
    }
    for (i, length) in lengths.iter_mut().enumerate() {
        let mut node = i;
        while counts[i] > 0 && parents[node] != usize::MAX {
            node = parents[node];
            *length += 1;
        }
    }
    lengths
}

/// The canonical codes of the given lengths, each with its bits in the order they are sent.
fn codes(lengths: &[u8]) -> Vec<(u32, u32)> {
    let mut out = vec![(0, 0); lengths.len()];
    let mut code = 0u32;
    for bits in 1..=u32::from(MAX_CODE_BITS) {
        code <<= 1;
        for (symbol, _) in lengths
            .iter()
            .enumerate()
            .filter(|(_, &l)| u32::from(l) == bits)
        {
            out[symbol] = (code.reverse_bits() >> (32 - bits), bits);
            code += 1;
        }
    }
    out
}

/// Writes both sets of code lengths, themselves Huffman coded.
fn write_header(out: &mut BitWriter, literals: &[u8], distances: &[u8]) {
    let mut counts = [0u32; 19];
    let all = || literals.iter().chain(distances);
    all().for_each(|&l| counts[l as usize] += 1);
    // A code of one symbol is an edge that some readers mind.
    counts[0] = counts[0].max(1);
    counts[1] = counts[1].max(1);
    let lengths = code_lengths(&counts, MAX_LENGTH_CODE_BITS);
    out.bits(literals.len() as u32 - 257, 5);
    out.bits(distances.len() as u32 - 1, 5);
    out.bits(19 - 4, 4);
    for symbol in LENGTH_ORDER {
        out.bits(u32::from(lengths[symbol]), 3);
    }
    let codes = codes(&lengths);
    all().for_each(|&l| out.code(codes[l as usize]));
}

/// Bits into bytes, lowest bit first.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    count: u32,
}

impl BitWriter {
    fn bits(&mut self, value: u32, bits: u32) {
        self.pending |= u64::from(value) << self.count;
        self.count += bits;
        while self.count >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    fn code(&mut self, (code, bits): (u32, u32)) {
        self.bits(code, bits);
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::sampler::hash;

    /// A plain decoder for what [`compress`] writes, from the RFC alone.
    pub fn inflate(data: &[u8]) -> Vec<u8> {
        let mut at = 0;
        let mut bit = || {
            let b = data[at / 8] >> (at % 8) & 1;
            at += 1;
            u32::from(b)
        };
        let mut bits = |n: u32| (0..n).fold(0, |v, i| v | bit() << i);
        assert_eq!((bits(1), bits(2)), (1, 2), "one last block, dynamic codes");
        let (literals, distances, order) = (
            bits(5) as usize + 257,
            bits(5) as usize + 1,
            bits(4) as usize + 4,
        );
        let mut lengths = [0u8; 19];
        LENGTH_ORDER
            .iter()
            .take(order)
            .for_each(|&s| lengths[s] = bits(3) as u8);
        let decode = |codes: &[(u32, u32)], bits: &mut dyn FnMut(u32) -> u32| {
            let (mut code, mut length) = (0, 0);
            loop {
                code |= bits(1) << length;
                length += 1;
                assert!(length <= 15, "no such code");
                if let Some(s) = codes.iter().position(|&c| c == (code, length)) {
                    return s;
                }
            }
        };
        let length_codes = codes(&lengths);
        let all: Vec<u8> = (0..literals + distances)
            .map(|_| decode(&length_codes, &mut bits) as u8)
            .collect();
        let (literal_codes, distance_codes) = (codes(&all[..literals]), codes(&all[literals..]));
        let mut out = Vec::new();
        loop {
            match decode(&literal_codes, &mut bits) {
                256 => return out,
                s if s < 256 => out.push(s as u8),
                s => {
                    let s = s - 257;
                    let length = match s {
                        28 => 258,
                        s if s < 8 => s + 3,
                        s => {
                            let e = s / 4 - 1;
                            3 + ((4 + s % 4) << e) + bits(e as u32) as usize
                        }
                    };
                    let d = decode(&distance_codes, &mut bits);
                    let distance = if d < 4 {
                        d + 1
                    } else {
                        let e = d / 2 - 1;
                        1 + ((2 + d % 2) << e) + bits(e as u32) as usize
                    };
                    (0..length).for_each(|_| out.push(out[out.len() - distance]));
                }
            }
        }
    }

    #[test]
    fn what_is_compressed_comes_back() {
        let noise: Vec<u8> = (0..5000).map(|i| hash(i) as u8).collect();
        let skewed: Vec<u8> = (0..60_000u32)
            .map(|i| (hash(i).leading_zeros() * 7) as u8)
            .collect();
        let text = b"to be or not to be, that is the question; to be or not to be".repeat(40);
        let far = [&noise[..], &vec![0; 40_000], &noise[..]].concat();
        for data in [
            &b""[..],
            b"a",
            b"abcd",
            &[0; 1000],
            &noise,
            &skewed,
            &text,
            &far,
        ] {
            let packed = compress(data);
            assert!(inflate(&packed) == data, "{} bytes", data.len());
        }
        assert!(compress(&text).len() < 250);
    }

    #[test]
    fn symbols_follow_the_tables_of_the_format() {
        let want = [
            (3, (257, 0)),
            (10, (264, 0)),
            (11, (265, 1)),
            (12, (265, 1)),
            (257, (284, 5)),
            (258, (285, 0)),
        ];
        for (length, (symbol, bits)) in want {
            let s = length_symbol(length);
            assert_eq!((s.0, s.2), (symbol, bits), "length {length}");
        }
        for (distance, (symbol, bits)) in [
            (1, (0, 0)),
            (4, (3, 0)),
            (5, (4, 1)),
            (24_577, (29, 13)),
            (32_768, (29, 13)),
        ] {
            let s = distance_symbol(distance);
            assert_eq!((s.0, s.2), (symbol, bits), "distance {distance}");
        }
    }

    #[test]
    fn codes_are_never_too_long() {
        // Fibonacci counts make the deepest tree there is.
        let mut counts = vec![1u32, 1];
        while counts.len() < 40 {
            counts.push(counts[counts.len() - 1] + counts[counts.len() - 2]);
        }
        let lengths = code_lengths(&counts, MAX_CODE_BITS);
        assert!(lengths.iter().all(|&l| (1..=15).contains(&l)));
        let kraft: u32 = lengths.iter().map(|&l| 1u32 << (15 - l)).sum();
        assert_eq!(kraft, 1 << 15, "a complete code");
    }
}
