//! Smooths the noise that few samples leave, without smoothing what is there.
//!
//! An edge-avoiding wavelet filter (Dammertz and others 2010, with the variance guidance of Schied and others 2017): each
//! pass averages a pixel with 24 others, twice as far apart as in the pass before, and counts the less on those that show
//! another material, another surface, or a brightness that noise does not explain. `main` calls [`denoise`] between
//! rendering and grading.

use crate::numeric::{exp, max, unit};
use crate::render::{compressed, Buffers};
use crate::vec3::Vec3;
use crate::walk::Features;

/// Passes; three reach 14 pixels to every side.
const PASSES: usize = 3;
/// How many standard deviations of noise a brightness may differ and still count fully as the same.
const NOISE_TOLERANCE: f32 = 1.6;
/// Differences of brightness below this are smoothed even where the samples happened to agree: one 8-bit step.
const NOISE_FLOOR: f32 = 1.0 / 256.0;
/// Distance between two surfaces' tangent planes, as part of the distance from the camera, that keeps them apart.
const PLANE_TOLERANCE: f32 = 0.02;
/// Difference of albedo that keeps two materials apart.
const ALBEDO_TOLERANCE: f32 = 0.07;
/// The weights of a cubic B-spline.
const KERNEL: [f32; 5] = [1.0 / 16.0, 4.0 / 16.0, 6.0 / 16.0, 4.0 / 16.0, 1.0 / 16.0];

/// Filters the light in place; the camera stands at `eye`.
pub fn denoise(b: &mut Buffers, eye: Vec3) {
    despeckle(b);
    for pass in 0..PASSES {
        let noise = blurred_deviation(b);
        let tone: Vec<f32> = b.light.iter().map(|&l| compressed(l)).collect();
        let step = 1isize << pass;
        let mut light = Vec::with_capacity(b.light.len());
        let mut variance = Vec::with_capacity(b.light.len());
        for y in 0..b.height as isize {
            for x in 0..b.width as isize {
                let (l, v) = filter(b, &tone, &noise, eye, (x, y), step);
                light.push(l);
                variance.push(v);
            }
        }
        b.light = light;
        b.variance = variance;
    }
}

/// Brings a pixel that outshines all its neighbours down to the brightest of them: one lucky path is no highlight.
fn despeckle(b: &mut Buffers) {
    let (w, h) = (b.width, b.height);
    let mut light = b.light.clone();
    for y in 0..h {
        for x in 0..w {
            let here = y * w + x;
            let mut brightest = 0.0;
            for ny in y.saturating_sub(1)..(y + 2).min(h) {
                for nx in x.saturating_sub(1)..(x + 2).min(w) {
                    let there = ny * w + nx;
                    if there != here {
                        brightest = max(brightest, b.light[there].luminance());
                    }
                }
            }
            let l = b.light[here].luminance();
            if l > brightest && brightest > 0.0 {
                light[here] = b.light[here] * (brightest / l);
            }
        }
    }
    b.light = light;
}

/// The noise that smoothing would leave around each pixel: where more samples help most.
///
/// A pixel's own samples have little say in it. If they had, one that happened to miss the light would be trusted and get
/// no more samples, and the picture would come out too dark.
pub fn noise_left(b: &Buffers, eye: Vec3) -> Vec<f32> {
    let (w, h) = (b.width, b.height);
    let mut out = Vec::with_capacity(b.light.len());
    for y in 0..h {
        for x in 0..w {
            let f = &b.features[y * w + x];
            let reach = PLANE_TOLERANCE * max((f.position - eye).length(), 1e-3);
            let (mut variance, mut count, mut alike) = (0.0, 0.0, 0.0);
            for ny in y.saturating_sub(2)..(y + 3).min(h) {
                for nx in x.saturating_sub(2)..(x + 3).min(w) {
                    let there = ny * w + nx;
                    variance += b.variance[there];
                    count += 1.0;
                    alike += exp(-unlike(f, &b.features[there], reach));
                }
            }
            out.push((variance / (count * alike)).sqrt());
        }
    }
    out
}

/// The standard deviation around each pixel; that of one pixel alone is itself too noisy to go by.
fn blurred_deviation(b: &Buffers) -> Vec<f32> {
    let (w, h) = (b.width, b.height);
    let mut out = Vec::with_capacity(b.variance.len());
    for y in 0..h {
        for x in 0..w {
            let (mut sum, mut count) = (0.0, 0.0);
            for ny in y.saturating_sub(1)..(y + 2).min(h) {
                for nx in x.saturating_sub(1)..(x + 2).min(w) {
                    let k = if nx == x && ny == y { 4.0 } else { 1.0 };
                    sum += k * b.variance[ny * w + nx];
                    count += k;
                }
            }
            out.push((sum / count).sqrt());
        }
    }
    out
}

/// The filtered light of one pixel and its remaining variance.
fn filter(
    b: &Buffers,
    tone: &[f32],
    noise: &[f32],
    eye: Vec3,
    at: (isize, isize),
    step: isize,
) -> (Vec3, f32) {
    let (w, h) = (b.width as isize, b.height as isize);
    let here = (at.1 * w + at.0) as usize;
    let f = &b.features[here];
    let reach = PLANE_TOLERANCE * max((f.position - eye).length(), 1e-3);
    let (mut light, mut variance, mut total) = (Vec3::ZERO, 0.0, 0.0);
    for dy in -2..=2isize {
        let y = at.1 + dy * step;
        if y < 0 || y >= h {
            continue;
        }
        for dx in -2..=2isize {
            let x = at.0 + dx * step;
            if x < 0 || x >= w {
                continue;
            }
            let there = (y * w + x) as usize;
            let mut weight = KERNEL[(dx + 2) as usize] * KERNEL[(dy + 2) as usize];
            if there != here {
                let tolerated = NOISE_TOLERANCE * (noise[here] + noise[there]) * 0.5 + NOISE_FLOOR;
                let d = (tone[here] - tone[there]) / tolerated;
                let apart = unlike(f, &b.features[there], reach) + d * d;
                // e^-8 no longer shows.
                if apart > 8.0 {
                    continue;
                }
                weight *= exp(-apart);
            }
            light += b.light[there] * weight;
            variance += b.variance[there] * weight * weight;
            total += weight;
        }
    }
    (light * (1.0 / total), variance / (total * total))
}

/// How different two pixels' surfaces are: 0 alike, above about 4 quite apart.
fn unlike(a: &Features, b: &Features, reach: f32) -> f32 {
    let albedo = a.albedo - b.albedo;
    let colour = albedo.dot(albedo) / (ALBEDO_TOLERANCE * ALBEDO_TOLERANCE);
    let normal = a.normal - b.normal;
    // A sky pixel has no normal, so it stands apart from any surface.
    let bend = 12.0 * normal.dot(normal);
    let plane = (b.position - a.position).dot(a.normal) / reach;
    colour + bend + unit(plane * plane) * 4.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::hash;
    use crate::vec3::vec3;

    /// A wall, grey on the left and white on the right, with noise.
    fn wall() -> Buffers {
        let (width, height) = (32, 16);
        let mut b = Buffers {
            width,
            height,
            light: vec![],
            features: vec![],
            variance: vec![],
        };
        for i in 0..width * height {
            let shade = if i % width < width / 2 { 0.2 } else { 0.8 };
            let noise = (hash(i as u32) as f32 / u32::MAX as f32 - 0.5) * 0.2;
            b.light.push(Vec3::splat(shade + noise));
            let position = vec3((i % width) as f32, (i / width) as f32, 0.0);
            b.features.push(Features {
                albedo: Vec3::splat(shade),
                normal: vec3(0.0, 0.0, 1.0),
                position,
            });
            b.variance.push(0.002);
        }
        b
    }

    #[test]
    fn noise_goes_and_edges_stay() {
        let mut b = wall();
        let error = |b: &Buffers| {
            let off = |(i, l): (usize, &Vec3)| (l.x - if i % 32 < 16 { 0.2 } else { 0.8 }).abs();
            b.light.iter().enumerate().map(off).sum::<f32>() / b.light.len() as f32
        };
        let before = error(&b);
        denoise(&mut b, vec3(0.0, 0.0, 50.0));
        assert!(error(&b) < before * 0.35, "{} of {before}", error(&b));
        assert!((b.light[15].x - 0.2).abs() < 0.1 && (b.light[16].x - 0.8).abs() < 0.1);
    }
}
