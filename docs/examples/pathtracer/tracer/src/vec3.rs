//! Three-component vectors and rotation frames.
//!
//! Owns the arithmetic of points, directions and colours; every other module uses it. Operations are written out in
//! plain `+ - * /` and `sqrt`, which IEEE 754 fixes to the last bit, so a native build and a WASM build agree exactly.

use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

use crate::numeric::{cos_turns, max, min, sin_turns};

/// A point, a direction or a linear RGB colour.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Vec3 {
    pub x: f32,
    pub y: f32,
    pub z: f32,
}

/// Shorthand constructor.
pub const fn vec3(x: f32, y: f32, z: f32) -> Vec3 {
    Vec3 { x, y, z }
}

impl Vec3 {
    pub const ZERO: Vec3 = vec3(0.0, 0.0, 0.0);
    pub const ONE: Vec3 = vec3(1.0, 1.0, 1.0);

    /// All three components set to `v`.
    pub const fn splat(v: f32) -> Vec3 {
        vec3(v, v, v)
    }

    pub fn dot(self, o: Vec3) -> f32 {
        self.x * o.x + self.y * o.y + self.z * o.z
    }

    pub fn cross(self, o: Vec3) -> Vec3 {
        vec3(
            self.y * o.z - self.z * o.y,
            self.z * o.x - self.x * o.z,
            self.x * o.y - self.y * o.x,
        )
    }

    pub fn length(self) -> f32 {
        self.dot(self).sqrt()
    }

    /// The direction of `self`; zero stays zero.
    pub fn normalized(self) -> Vec3 {
        let l = self.length();
        if l > 0.0 {
            self * (1.0 / l)
        } else {
            Vec3::ZERO
        }
    }

    pub fn min(self, o: Vec3) -> Vec3 {
        vec3(min(self.x, o.x), min(self.y, o.y), min(self.z, o.z))
    }

    pub fn max(self, o: Vec3) -> Vec3 {
        vec3(max(self.x, o.x), max(self.y, o.y), max(self.z, o.z))
    }

    pub fn abs(self) -> Vec3 {
        vec3(self.x.abs(), self.y.abs(), self.z.abs())
    }

    pub fn max_component(self) -> f32 {
        max(self.x, max(self.y, self.z))
    }

    /// Perceived brightness of a linear RGB colour (Rec. 709 weights).
    pub fn luminance(self) -> f32 {
        0.2126 * self.x + 0.7152 * self.y + 0.0722 * self.z
    }

    /// `self` where `s` is 0, `o` where `s` is 1.
    pub fn mix(self, o: Vec3, s: f32) -> Vec3 {
        self * (1.0 - s) + o * s
    }

    /// `self`, a direction of travel, mirrored at a surface with unit normal `n`.
    pub fn reflect(self, n: Vec3) -> Vec3 {
        self - n * (2.0 * self.dot(n))
    }
}

impl Add for Vec3 {
    type Output = Vec3;
    fn add(self, o: Vec3) -> Vec3 {
        vec3(self.x + o.x, self.y + o.y, self.z + o.z)
    }
}

impl Sub for Vec3 {
    type Output = Vec3;
    fn sub(self, o: Vec3) -> Vec3 {
        vec3(self.x - o.x, self.y - o.y, self.z - o.z)
    }
}

impl Mul for Vec3 {
    type Output = Vec3;
    fn mul(self, o: Vec3) -> Vec3 {
        vec3(self.x * o.x, self.y * o.y, self.z * o.z)
    }
}

impl Mul<f32> for Vec3 {
    type Output = Vec3;
    fn mul(self, k: f32) -> Vec3 {
        vec3(self.x * k, self.y * k, self.z * k)
    }
}

impl Div for Vec3 {
    type Output = Vec3;
    fn div(self, o: Vec3) -> Vec3 {
        vec3(self.x / o.x, self.y / o.y, self.z / o.z)
    }
}

impl Neg for Vec3 {
    type Output = Vec3;
    fn neg(self) -> Vec3 {
        vec3(-self.x, -self.y, -self.z)
    }
}

impl AddAssign for Vec3 {
    fn add_assign(&mut self, o: Vec3) {
        *self = *self + o;
    }
}

impl MulAssign for Vec3 {
    fn mul_assign(&mut self, o: Vec3) {
        *self = *self * o;
    }
}

/// A position and three perpendicular unit axes: where an object stands and how it is turned.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub origin: Vec3,
    pub x: Vec3,
    pub y: Vec3,
    pub z: Vec3,
}

impl Frame {
    pub const WORLD: Frame = Frame {
        origin: Vec3::ZERO,
        x: vec3(1.0, 0.0, 0.0),
        y: vec3(0.0, 1.0, 0.0),
        z: vec3(0.0, 0.0, 1.0),
    };

    /// A frame at the world's origin whose z axis is the unit vector `n`; the other two are arbitrary but fixed.
    pub fn around(n: Vec3) -> Frame {
        let helper = if n.x.abs() < 0.7 {
            vec3(1.0, 0.0, 0.0)
        } else {
            vec3(0.0, 1.0, 0.0)
        };
        let x = helper.cross(n).normalized();
        Frame {
            origin: Vec3::ZERO,
            x,
            y: n.cross(x),
            z: n,
        }
    }

    /// A direction given in this frame, in the world.
    pub fn direction(&self, v: Vec3) -> Vec3 {
        self.x * v.x + self.y * v.y + self.z * v.z
    }

    /// A point given in this frame, in the world.
    pub fn point(&self, p: Vec3) -> Vec3 {
        self.origin + self.direction(p)
    }

    /// A world direction as seen from this frame.
    pub fn local_direction(&self, v: Vec3) -> Vec3 {
        vec3(v.dot(self.x), v.dot(self.y), v.dot(self.z))
    }

    /// A world point as seen from this frame.
    pub fn local_point(&self, p: Vec3) -> Vec3 {
        self.local_direction(p - self.origin)
    }

    /// This frame moved by `offset`, which is given along its own axes.
    pub fn moved(&self, offset: Vec3) -> Frame {
        Frame {
            origin: self.point(offset),
            ..*self
        }
    }

    /// This frame turned about its own axis 0 (x), 1 (y) or 2 (z) by `turns` of a full circle, right-handed.
    pub fn turned(&self, axis: usize, turns: f32) -> Frame {
        let (s, c) = (sin_turns(turns), cos_turns(turns));
        let spin = |a: Vec3, b: Vec3| (a * c + b * s, b * c - a * s);
        let mut f = *self;
        match axis {
            0 => (f.y, f.z) = spin(self.y, self.z),
            1 => (f.z, f.x) = spin(self.z, self.x),
            _ => (f.x, f.y) = spin(self.x, self.y),
        }
        f
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_frame_goes_there_and_back() {
        let f = Frame::WORLD
            .moved(vec3(1.0, 2.0, 3.0))
            .turned(1, 0.25)
            .turned(0, 0.1);
        let p = vec3(0.3, -0.2, 0.9);
        assert!((f.local_point(f.point(p)) - p).length() < 1e-5);
        // A quarter turn about y carries z to x.
        let q = Frame::WORLD.turned(1, 0.25).point(vec3(0.0, 0.0, 1.0));
        assert!((q - vec3(1.0, 0.0, 0.0)).length() < 1e-6);
    }

    #[test]
    fn a_frame_around_a_normal_is_orthonormal() {
        for n in [
            vec3(0.0, 1.0, 0.0),
            vec3(1.0, 0.0, 0.0),
            vec3(0.6, -0.48, 0.64),
        ] {
            let f = Frame::around(n);
            assert!(
                f.x.dot(f.y).abs() < 1e-6 && f.x.dot(n).abs() < 1e-6 && f.y.dot(n).abs() < 1e-6
            );
            assert!((f.x.cross(f.y) - n).length() < 1e-5);
        }
    }
}
