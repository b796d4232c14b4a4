//! From light to picture: bloom, vignette, tone curve, 8-bit sRGB.
//!
//! The last step before the file is written; `main` calls [`grade`]. Works on the whole frame, knows nothing of the scene
//! but its [`Grade`].

use crate::numeric::{exp, pow, unit};
use crate::render::Buffers;
use crate::sampler::hash;
use crate::scene::Grade;
use crate::vec3::{vec3, Vec3};

/// The widths of the bloom's three layers, as parts of the picture's height, and their shares.
const BLOOM_LAYERS: [(f32, f32); 3] = [(0.008, 0.5), (0.03, 0.3), (0.09, 0.2)];
/// Light below this brightness does not bloom: only what outshines white does.
const BLOOM_THRESHOLD: f32 = 0.9;

/// The picture as RGB bytes, row by row.
pub fn grade(b: &Buffers, g: &Grade) -> Vec<u8> {
    let mut light: Vec<Vec3> = b.light.iter().map(|&l| l * g.exposure).collect();
    if g.bloom > 0.0 {
        add_bloom(&mut light, b.width, b.height, g.bloom);
    }
    let mut out = Vec::with_capacity(light.len() * 3);
    let (w, h) = (b.width as f32, b.height as f32);
    for (i, &l) in light.iter().enumerate() {
        let x = ((i % b.width) as f32 + 0.5) / w * 2.0 - 1.0;
        let y = ((i / b.width) as f32 + 0.5) / h * 2.0 - 1.0;
        let corner = (x * x + y * y) * 0.5;
        let c = film(l * (1.0 - g.vignette * corner * corner), g.saturation);
        // Less than half a step of fixed noise keeps gradients from showing bands.
        let dither = (hash(i as u32) >> 8) as f32 / 16_777_216.0 - 0.5;
        for v in [c.x, c.y, c.z] {
            out.push((srgb(v) * 255.0 + 0.5 + dither * 0.9).clamp(0.0, 255.0) as u8);
        }
    }
    out
}

/// The filmic tone curve: a rational fit of ACES (Narkowicz 2015), with bright colours bleeding towards white.
fn film(light: Vec3, saturation: f32) -> Vec3 {
    // A share of each channel goes to the others, so that a strong red lamp turns white at its core, as on film.
    let grey = Vec3::splat(light.luminance());
    let l = light.mix(grey, 0.06);
    let curve = |x: f32| unit(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14));
    // The fit is made for an exposure of 0.6.
    let c = vec3(curve(l.x * 0.6), curve(l.y * 0.6), curve(l.z * 0.6));
    let tone = Vec3::splat(c.luminance());
    let c = tone.mix(c, saturation);
    vec3(unit(c.x), unit(c.y), unit(c.z))
}

/// The sRGB transfer curve.
fn srgb(v: f32) -> f32 {
    if v <= 0.003_130_8 {
        v * 12.92
    } else {
        1.055 * pow(v, 1.0 / 2.4) - 0.055
    }
}

/// Spreads the light of bright spots around them.
fn add_bloom(light: &mut [Vec3], width: usize, height: usize, strength: f32) {
    let bright = |l: &Vec3| {
        let peak = l.max_component();
        if peak > BLOOM_THRESHOLD {
            *l * ((peak - BLOOM_THRESHOLD) / peak)
        } else {
            Vec3::ZERO
        }
    };
    let source: Vec<Vec3> = light.iter().map(bright).collect();
    for (size, share) in BLOOM_LAYERS {
        let sigma = size * height as f32;
        let across = blur(&source, width, height, sigma);
        let both = blur(&across, height, width, sigma);
        for (l, b) in light.iter_mut().zip(&both) {
            *l += *b * (strength * share);
        }
    }
}

/// Blurs every row with a Gaussian and returns the picture with rows and columns exchanged: twice, and it is upright again.
fn blur(source: &[Vec3], width: usize, height: usize, sigma: f32) -> Vec<Vec3> {
    let radius = (sigma * 3.0).ceil() as usize;
    let weight = |d: usize| exp(-0.5 * (d as f32 / sigma) * (d as f32 / sigma));
    let kernel: Vec<f32> = (0..=radius).map(weight).collect();
    let total = 2.0 * kernel.iter().sum::<f32>() - kernel[0];
    let mut out = vec![Vec3::ZERO; source.len()];
    for y in 0..height {
        let row = &source[y * width..(y + 1) * width];
        for (x, &l) in row.iter().enumerate() {
            if l == Vec3::ZERO {
                continue;
            }
            for to in x.saturating_sub(radius)..(x + radius + 1).min(width) {
                let d = to.abs_diff(x);
                out[to * height + y] += l * (kernel[d] / total);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn black_stays_black_and_white_becomes_white() {
        let light = vec![Vec3::ZERO, Vec3::splat(50.0), Vec3::splat(0.18)];
        let b = Buffers {
            width: 3,
            height: 1,
            light,
            features: vec![],
            variance: vec![],
        };
        let out = grade(
            &b,
            &Grade {
                exposure: 1.0,
                bloom: 0.0,
                vignette: 0.0,
                saturation: 1.0,
            },
        );
        assert!(out[0] <= 1 && out[3] >= 254, "{out:?}");
        // Middle grey stays in the middle.
        assert!((90..150).contains(&out[6]), "{out:?}");
    }

    #[test]
    fn blur_keeps_the_light_and_its_place() {
        let (w, h) = (31, 21);
        let mut source = vec![Vec3::ZERO; w * h];
        source[10 * w + 15] = Vec3::ONE;
        let out = blur(&blur(&source, w, h, 1.5), h, w, 1.5);
        let total: f32 = out.iter().map(|l| l.x).sum();
        assert!((total - 1.0).abs() < 1e-4, "{total}");
        let brightest = (0..out.len()).max_by(|&a, &b| out[a].x.total_cmp(&out[b].x));
        assert_eq!(brightest, Some(10 * w + 15));
    }
}
