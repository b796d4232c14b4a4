//! From frames to an animation (APNG) and a contact sheet.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// Frames a second of the animation.
const FRAME_RATE: u16 = 12;

/// Frames in a row of the contact sheet.
const COLUMNS: usize = 6;

/// Pixels between frames of the contact sheet.
const GAP: usize = 4;

/// One frame, 8 bits RGB.
struct Frame {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// Reads `frames/*.png` below `out` and writes `animation.png` and `contact-sheet.png` beside them.
/// Returns how many frames there are.
pub fn make(out: &Path) -> Result<u64, Failure> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(out.join("frames"))
        .map_err(|error| failed(&out.join("frames"), &error))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "png"))
        .collect();
    paths.sort();
    let frames = paths
        .iter()
        .map(|path| read(path))
        .collect::<Result<Vec<_>, _>>()?;
    let Some(first) = frames.first() else {
        return Err(Failure::internal("the job delivered no frames"));
    };
    if let Some(odd) = frames
        .iter()
        .position(|frame| (frame.width, frame.height) != (first.width, first.height))
    {
        return Err(Failure::internal(format!(
            "{} has another size than the first frame",
            paths[odd].display()
        )));
    }
    animation(&out.join("animation.png"), &frames)?;
    contact_sheet(&out.join("contact-sheet.png"), &frames)?;
    Ok(frames.len() as u64)
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::internal(format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Frame, Failure> {
    let file = File::open(path).map_err(|error| failed(path, &error))?;
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|error| failed(path, &error))?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| failed(path, &"too large"))?;
    let mut pixels = vec![0; size];
    let info = reader
        .next_frame(&mut pixels)
        .map_err(|error| failed(path, &error))?;
    if info.color_type != png::ColorType::Rgb {
        return Err(failed(path, &"not an RGB picture"));
    }
    pixels.truncate(info.buffer_size());
    Ok(Frame {
        width: info.width as usize,
        height: info.height as usize,
        pixels,
    })
}

fn animation(path: &Path, frames: &[Frame]) -> Result<(), Failure> {
    let file = File::create(path).map_err(|error| failed(path, &error))?;
    let mut encoder = png::Encoder::new(
        BufWriter::new(file),
        frames[0].width as u32,
        frames[0].height as u32,
    );
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder
        .set_animated(frames.len() as u32, 0)
        .and_then(|()| encoder.set_frame_delay(1, FRAME_RATE))
        .and_then(|()| encoder.write_header())
        .and_then(|mut writer| {
            for frame in frames {
                writer.write_image_data(&frame.pixels)?;
            }
            writer.finish()
        });
    written.map_err(|error| failed(path, &error))
}

/// All frames at half size in rows.
fn contact_sheet(path: &Path, frames: &[Frame]) -> Result<(), Failure> {
    let (width, height) = (frames[0].width / 2, frames[0].height / 2);
    let rows = frames.len().div_ceil(COLUMNS);
    let sheet_width = COLUMNS * (width + GAP) + GAP;
    let sheet_height = rows * (height + GAP) + GAP;
    let mut sheet = vec![16u8; sheet_width * sheet_height * 3];
    for (number, frame) in frames.iter().enumerate() {
        let left = GAP + number % COLUMNS * (width + GAP);
        let top = GAP + number / COLUMNS * (height + GAP);
        for y in 0..height {
            for x in 0..width {
                let at = ((top + y) * sheet_width + left + x) * 3;
                for channel in 0..3 {
                    sheet[at + channel] = average(frame, x * 2, y * 2, channel);
                }
            }
        }
    }
    let file = File::create(path).map_err(|error| failed(path, &error))?;
    let mut encoder = png::Encoder::new(
        BufWriter::new(file),
        sheet_width as u32,
        sheet_height as u32,
    );
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&sheet)?;
        writer.finish()
    });
    written.map_err(|error| failed(path, &error))
}

/// The mean of four neighbouring pixels.
fn average(frame: &Frame, x: usize, y: usize, channel: usize) -> u8 {
    let at = |x: usize, y: usize| u16::from(frame.pixels[(y * frame.width + x) * 3 + channel]);
    ((at(x, y) + at(x + 1, y) + at(x, y + 1) + at(x + 1, y + 1)) / 4) as u8
}
