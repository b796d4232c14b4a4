//! What a surface does to a direction: mirrors, lenses, and even scattering.
//!
//! Pure functions for the path tracer: directions and random numbers in, directions and shares of the light out.

use crate::numeric::{cos_turns, max, min, sin_turns};
use crate::vec3::{Frame, Vec3};

/// Light at a clear boundary.
pub struct Boundary {
    pub reflected: Vec3,
    /// Share of the light that is reflected.
    pub mirror: f32,
    /// Where the rest goes; nothing gets through at a flat angle from inside.
    pub refracted: Option<Vec3>,
}

/// Snell's and Fresnel's laws for a ray along `d` at a surface whose normal `n` faces it; `eta` is the refractive index
/// before the surface over the one behind it.
pub fn boundary(d: Vec3, n: Vec3, eta: f32) -> Boundary {
    let cos_in = min(-d.dot(n), 1.0);
    let sin2_out = eta * eta * (1.0 - cos_in * cos_in);
    let reflected = d.reflect(n);
    if sin2_out >= 1.0 {
        return Boundary {
            reflected,
            mirror: 1.0,
            refracted: None,
        };
    }
    let cos_out = (1.0 - sin2_out).sqrt();
    let s = (eta * cos_in - cos_out) / (eta * cos_in + cos_out);
    let p = (cos_in - eta * cos_out) / (cos_in + eta * cos_out);
    let refracted = (d * eta + n * (eta * cos_in - cos_out)).normalized();
    Boundary {
        reflected,
        mirror: 0.5 * (s * s + p * p),
        refracted: Some(refracted),
    }
}

/// Schlick's approximation of the mirrored share, from the share mirrored straight on.
pub fn schlick(straight: f32, cos: f32) -> f32 {
    let m = min(max(1.0 - cos, 0.0), 1.0);
    let m2 = m * m;
    straight + (1.0 - straight) * m2 * m2 * m
}

/// A direction above the surface with probability proportional to its cosine.
pub fn cosine_lobe(n: Vec3, spot: (f32, f32)) -> Vec3 {
    let r = spot.0.sqrt();
    let f = Frame::around(n);
    let up = max(1.0 - spot.0, 0.0).sqrt();
    (f.x * (r * cos_turns(spot.1)) + f.y * (r * sin_turns(spot.1)) + n * up).normalized()
}

/// The mirror direction, blurred: towards a point within `fuzz` of its tip, never into the surface.
pub fn mirrored(d: Vec3, n: Vec3, fuzz: f32, spot: (f32, f32)) -> Vec3 {
    let r = d.reflect(n);
    if fuzz <= 0.0 {
        return r;
    }
    // Denser towards the middle than an even disc: the highlight has a bright core and a soft edge.
    let reach = fuzz * spot.0;
    let f = Frame::around(r);
    let off = f.x * (reach * cos_turns(spot.1)) + f.y * (reach * sin_turns(spot.1));
    let blurred = (r + off).normalized();
    if blurred.dot(n) > 0.0 {
        blurred
    } else {
        r
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vec3::vec3;

    #[test]
    fn glass_mirrors_four_percent_straight_on_and_all_at_the_edge() {
        let n = vec3(0.0, 1.0, 0.0);
        let b = boundary(-n, n, 1.0 / 1.5);
        assert!((b.mirror - 0.04).abs() < 1e-6);
        assert!((b.refracted.unwrap() + n).length() < 1e-6);
        assert!((schlick(0.04, 1.0) - 0.04).abs() < 1e-6);
        assert!((schlick(0.04, 0.0) - 1.0).abs() < 1e-6);
        let flat = vec3(1.0, -0.01, 0.0).normalized();
        assert!(boundary(flat, n, 1.0 / 1.5).mirror > 0.9);
        assert!(boundary(flat, n, 1.5).refracted.is_none());
    }

    #[test]
    fn refraction_follows_the_law_of_sines() {
        let n = vec3(0.0, 1.0, 0.0);
        let d = vec3(0.6, -0.8, 0.0);
        let through = boundary(d, n, 1.0 / 1.5).refracted.unwrap();
        assert!((through.x - 0.6 / 1.5).abs() < 1e-6 && through.y < 0.0);
    }

    #[test]
    fn scattered_and_blurred_directions_stay_above_the_surface() {
        let n = vec3(0.48, 0.6, -0.64);
        let d = vec3(0.0, -0.28, 0.96);
        for i in 0..100 {
            let spot = (i as f32 / 100.0, (i * 37 % 100) as f32 / 100.0);
            for v in [cosine_lobe(n, spot), mirrored(d, n, 0.9, spot)] {
                assert!(v.dot(n) >= -1e-6 && (v.length() - 1.0).abs() < 1e-5);
            }
        }
    }
}
