//! Renders a frame into buffers of light.
//!
//! Owns the loop over pixels and samples; `main` calls [`render`], then the denoiser and the grade take over. Which random
//! numbers a pixel gets depends on the frame, the pixel and the sample, on nothing else.

use crate::denoise::noise_left;
use crate::numeric::{cos_turns, max, min, sin_turns};
use crate::path::Tracer;
use crate::sampler::{hash, Sampler, Table};
use crate::scene::Scene;
use crate::vec3::Vec3;
use crate::walk::Features;

/// Radius of the pixel's filter, in pixels: a tent a little wider than the pixel keeps edges smooth and details sharp.
const FILTER_RADIUS: f32 = 0.85;
/// Brightness a single sample counts for at most: keeps mirrored lamps from leaving jagged edges.
const SAMPLE_LIMIT: f32 = 24.0;

/// One sample in this many goes to the first pass, which finds out where more are needed.
const FIRST_PASS_PART: u32 = 2;
/// How many times the average number of samples a pixel may get.
const MAX_SHARE: u32 = 8;

/// What to render.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub width: usize,
    pub height: usize,
    /// Samples a pixel, on average.
    pub samples: u32,
    /// Makes the noise of each frame its own.
    pub frame: u32,
}

/// A picture in linear light, row by row from the top left, with what the denoiser needs.
pub struct Buffers {
    pub width: usize,
    pub height: usize,
    pub light: Vec<Vec3>,
    pub features: Vec<Features>,
    /// Variance of the mean of [`compressed`] brightness.
    pub variance: Vec<f32>,
}

/// Brightness on a scale where differences look about alike: what the tone curve makes of light, roughly.
pub fn compressed(light: Vec3) -> f32 {
    let l = light.luminance();
    l / (1.0 + l)
}

/// What the samples of one pixel add up to.
#[derive(Clone, Copy, Default)]
struct Tally {
    light: Vec3,
    features: Features,
    tone: f32,
    tone_squares: f32,
    count: u32,
}

/// Renders, calling `progress` when the even first pass is done. Returns the light and the rays cast.
///
/// The first pass gives every pixel the same number of samples; the second gives the rest of the budget to pixels in
/// proportion to the noise they still show: edges, glass and mirrored lamps rather than sky.
pub fn render(scene: &Scene, job: &Job, progress: impl FnOnce()) -> (Buffers, u64) {
    let table = Table::new(job.samples * MAX_SHARE);
    let mut tracer = Tracer::new(scene);
    let mut tallies = vec![Tally::default(); job.width * job.height];
    let first = (job.samples / FIRST_PASS_PART).max(1);
    for (i, tally) in tallies.iter_mut().enumerate() {
        add_samples(&mut tracer, job, &table, i, tally, first);
    }
    progress();
    if job.samples > first {
        let noise = noise_left(&resolve(job, &tallies), scene.camera.frame.origin);
        let counts = distribute(&noise, job.samples - first, job.samples * MAX_SHARE - first);
        for (i, tally) in tallies.iter_mut().enumerate() {
            add_samples(&mut tracer, job, &table, i, tally, counts[i]);
        }
    }
    (resolve(job, &tallies), tracer.rays)
}

/// Shares out `mean` samples a pixel by `noise`, at most `limit` to one.
fn distribute(noise: &[f32], mean: u32, limit: u32) -> Vec<u32> {
    let average = max(noise.iter().sum::<f32>() / noise.len() as f32, 1e-9);
    let mut carry = 0.0;
    let share = |n: &f32| {
        carry += min(mean as f32 * n / average, limit as f32);
        let whole = carry.floor();
        carry -= whole;
        whole as u32
    };
    noise.iter().map(share).collect()
}

/// Traces `count` more samples of a pixel.
fn add_samples(
    tracer: &mut Tracer,
    job: &Job,
    table: &Table,
    pixel: usize,
    tally: &mut Tally,
    count: u32,
) {
    let (x, y) = (pixel % job.width, pixel / job.width);
    let seed = hash(hash(hash(job.frame) ^ x as u32) ^ y as u32);
    let (w, h) = (job.width as f32, job.height as f32);
    for i in tally.count..tally.count + count {
        let mut sampler = Sampler::new(table, seed, i);
        let (jx, jy) = sampler.next();
        let px = x as f32 + 0.5 + tent(jx) * FILTER_RADIUS;
        let py = y as f32 + 0.5 + tent(jy) * FILTER_RADIUS;
        let ray =
            tracer
                .scene
                .camera
                .ray((2.0 * px - w) / h, (h - 2.0 * py) / h, disc(sampler.next()));
        let (mut light, features) = tracer.sample(ray, &mut sampler);
        let peak = light.max_component();
        if peak > SAMPLE_LIMIT {
            light = light * (SAMPLE_LIMIT / peak);
        }
        tally.light += light;
        tally.features.albedo += features.albedo;
        tally.features.normal += features.normal;
        tally.features.position += features.position;
        let tone = compressed(light);
        tally.tone += tone;
        tally.tone_squares += tone * tone;
    }
    tally.count += count;
}

/// The means of all pixels.
fn resolve(job: &Job, tallies: &[Tally]) -> Buffers {
    let mean = |t: &Tally| 1.0 / t.count as f32;
    let features = |t: &Tally| Features {
        albedo: t.features.albedo * mean(t),
        normal: t.features.normal * mean(t),
        position: t.features.position * mean(t),
    };
    let variance = |t: &Tally| {
        let tone = t.tone * mean(t);
        max(t.tone_squares * mean(t) - tone * tone, 0.0) * mean(t)
    };
    Buffers {
        width: job.width,
        height: job.height,
        light: tallies.iter().map(|t| t.light * mean(t)).collect(),
        features: tallies.iter().map(features).collect(),
        variance: tallies.iter().map(variance).collect(),
    }
}

/// A uniform number made into one of a tent-shaped distribution over -1 to 1.
fn tent(u: f32) -> f32 {
    if u < 0.5 {
        (2.0 * u).sqrt() - 1.0
    } else {
        1.0 - (2.0 - 2.0 * u).sqrt()
    }
}

/// A uniform point of the unit disc.
fn disc(spot: (f32, f32)) -> (f32, f32) {
    let r = min(spot.0, 1.0).sqrt();
    (r * cos_turns(spot.1), r * sin_turns(spot.1))
}
