//! Writes a PNG file: 8-bit RGB, each row filtered the way that suits it.
//!
//! `main` calls [`encode`] with the finished picture. Only what a path tracer needs of the format: one image, no palette,
//! no interlacing.

use crate::deflate::compress;

const SIGNATURE: [u8; 8] = [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n'];
/// Bytes of a pixel.
const PIXEL: usize = 3;

/// The bytes of a PNG file that shows `rgb`, three bytes a pixel, row by row.
pub fn encode(width: u32, height: u32, rgb: &[u8]) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    let mut header = Vec::new();
    header.extend_from_slice(&width.to_be_bytes());
    header.extend_from_slice(&height.to_be_bytes());
    // 8 bits a channel, RGB, and the only compression, filter set and row order we write.
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    chunk(&mut out, b"IHDR", &header);
    // The colours are sRGB; 0 asks for a perceptual rendering.
    chunk(&mut out, b"sRGB", &[0]);
    let filtered = filter(width as usize * PIXEL, rgb);
    // A zlib stream: 32 KiB window, default level, then the data and its check sum.
    let mut zlib = vec![0x78, 0x9c];
    zlib.extend(compress(&filtered));
    zlib.extend_from_slice(&adler32(&filtered).to_be_bytes());
    chunk(&mut out, b"IDAT", &zlib);
    chunk(&mut out, b"IEND", &[]);
    out
}

fn chunk(out: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    let start = out.len();
    out.extend_from_slice(name);
    out.extend_from_slice(data);
    let crc = crc32(&out[start..]);
    out.extend_from_slice(&crc.to_be_bytes());
}

/// Replaces each row by its differences to a prediction, choosing the prediction that leaves the smallest ones.
fn filter(stride: usize, rgb: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rgb.len() + rgb.len() / stride);
    let mut above = vec![0; stride];
    for row in rgb.chunks_exact(stride) {
        let size = |row: &[u8]| {
            row.iter()
                .map(|&b| u32::from((b as i8).unsigned_abs()))
                .sum::<u32>()
        };
        let best = (0..=4u8)
            .map(|kind| (kind, difference(kind, row, &above)))
            .min_by_key(|(_, differences)| size(differences));
        if let Some((kind, differences)) = best {
            out.push(kind);
            out.extend(differences);
        }
        above.copy_from_slice(row);
    }
    out
}

/// A row's differences to prediction `kind`: none, left, above, their mean, Paeth.
fn difference(kind: u8, row: &[u8], above: &[u8]) -> Vec<u8> {
    let predict = |i: usize| {
        let left = if i < PIXEL { 0 } else { row[i - PIXEL] };
        let corner = if i < PIXEL { 0 } else { above[i - PIXEL] };
        match kind {
            0 => 0,
            1 => left,
            2 => above[i],
            3 => ((u16::from(left) + u16::from(above[i])) / 2) as u8,
            _ => paeth(left, above[i], corner),
        }
    };
    row.iter()
        .enumerate()
        .map(|(i, b)| b.wrapping_sub(predict(i)))
        .collect()
}

/// Of the three neighbours the one nearest to left + above - corner.
fn paeth(left: u8, above: u8, corner: u8) -> u8 {
    let p = i16::from(left) + i16::from(above) - i16::from(corner);
    let off = |v: u8| (p - i16::from(v)).abs();
    if off(left) <= off(above) && off(left) <= off(corner) {
        left
    } else if off(above) <= off(corner) {
        above
    } else {
        corner
    }
}

/// The check sum of a chunk (CRC-32 of ISO 3309).
fn crc32(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &b in data {
        crc ^= u32::from(b);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// The check sum of a zlib stream.
fn adler32(data: &[u8]) -> u32 {
    // The largest prime below 2^16; 5552 bytes can be summed before 32 bits overflow.
    const MODULUS: u32 = 65_521;
    let (mut a, mut b) = (1, 0);
    for part in data.chunks(5552) {
        for &byte in part {
            a += u32::from(byte);
            b += a;
        }
        a %= MODULUS;
        b %= MODULUS;
    }
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deflate::tests::inflate;
    use crate::sampler::hash;

    #[test]
    fn check_sums_match_known_values() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b"IEND"), 0xae42_6082);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
        assert_eq!(adler32(b""), 1);
        assert_eq!(adler32(&[255; 100_000]), {
            let (mut a, mut b) = (1u64, 0u64);
            (0..100_000).for_each(|_| {
                a = (a + 255) % 65_521;
                b = (b + a) % 65_521;
            });
            (b << 16 | a) as u32
        });
    }

    #[test]
    fn a_file_holds_the_picture() {
        let (w, h) = (13, 7);
        let rgb: Vec<u8> = (0..w * h * 3)
            .map(|i| (i * 2) as u8 ^ (hash(i) & 7) as u8)
            .collect();
        let file = encode(w, h, &rgb);
        assert_eq!(file[..8], SIGNATURE);
        let mut at = 8;
        let mut names = Vec::new();
        let mut picture = Vec::new();
        while at < file.len() {
            let be =
                |i: usize| u32::from_be_bytes([file[i], file[i + 1], file[i + 2], file[i + 3]]);
            let length = be(at) as usize;
            let (name, data) = (&file[at + 4..at + 8], &file[at + 8..at + 8 + length]);
            assert_eq!(be(at + 8 + length), crc32(&file[at + 4..at + 8 + length]));
            names.push(String::from_utf8_lossy(name).into_owned());
            if name == b"IDAT" {
                let filtered = inflate(&data[2..data.len() - 4]);
                assert_eq!(data[data.len() - 4..], adler32(&filtered).to_be_bytes());
                picture = undo(&filtered, w as usize * 3);
            }
            at += 12 + length;
        }
        assert_eq!(names, ["IHDR", "sRGB", "IDAT", "IEND"]);
        assert_eq!(picture, rgb);
    }

    /// Reverses the row filters.
    fn undo(filtered: &[u8], stride: usize) -> Vec<u8> {
        let mut out: Vec<u8> = Vec::new();
        for (y, row) in filtered.chunks(stride + 1).enumerate() {
            for i in 0..stride {
                let left = if i < 3 { 0 } else { out[y * stride + i - 3] };
                let above = if y == 0 { 0 } else { out[(y - 1) * stride + i] };
                let corner = if i < 3 || y == 0 {
                    0
                } else {
                    out[(y - 1) * stride + i - 3]
                };
                let mean = ((u16::from(left) + u16::from(above)) / 2) as u8;
                let predicted = [0, left, above, mean, paeth(left, above, corner)][row[0] as usize];
                out.push(row[1 + i].wrapping_add(predicted));
            }
        }
        out
    }
}
