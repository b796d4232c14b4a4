//! The state of one path while it is followed: what its light counts for, and what it has brought so far.
//!
//! The bookkeeping beside [`crate::path`], which decides where a path goes.

use crate::ray::Ray;
use crate::vec3::Vec3;

/// Brightness to which light that came by way of a matte surface is limited: a rare, very bright path would be a speck.
const INDIRECT_LIMIT: f32 = 5.0;
/// Albedo beyond which the denoiser need not tell surfaces apart; lamps and sky may have any.
const ALBEDO_LIMIT: f32 = 2.0;
/// The second way of a split takes its random points from here on, beyond those of the first.
const SPLIT_DIMENSIONS: u32 = 64;

/// What the denoiser may know of a sample besides its colour: the first matte surface, through mirrors and glass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    pub albedo: Vec3,
    pub normal: Vec3,
    pub position: Vec3,
}

/// A path, or the second way of one that was split.
pub struct Walk {
    pub ray: Ray,
    /// What light found from here on counts for.
    pub weight: Vec3,
    /// Surfaces met so far, and matte ones among them.
    pub surfaces: u32,
    pub matte: u32,
    /// Whether a lamp that the ray meets counts, because nothing before has sampled it.
    pub sees_lights: bool,
    /// The light found.
    pub light: Vec3,
    /// What the pixel shows, once it is known.
    pub features: Option<Features>,
    /// The second way, to be followed later; each path has at most one.
    pub split: Option<Box<Walk>>,
    may_split: bool,
    /// Where this way's random points start.
    pub first_dimension: u32,
}

impl Walk {
    /// A path that starts at the camera; its random points start at `first_dimension`.
    pub fn new(ray: Ray, first_dimension: u32) -> Walk {
        Walk {
            ray,
            weight: Vec3::ONE,
            surfaces: 0,
            matte: 0,
            sees_lights: true,
            light: Vec3::ZERO,
            features: None,
            split: None,
            may_split: true,
            first_dimension,
        }
    }

    /// Splits off a second way along `ray` that carries `share` of the light. False when this path was split before or
    /// was scattered already: then the noise of a coin toss is worth less than another path.
    pub fn split(&mut self, ray: Ray, share: f32) -> bool {
        if !self.may_split || self.matte > 0 {
            return false;
        }
        self.may_split = false;
        self.split = Some(Box::new(Walk {
            weight: self.weight * share,
            surfaces: self.surfaces,
            // The first way describes the pixel.
            features: Some(Features::default()),
            may_split: false,
            ..Walk::new(ray, SPLIT_DIMENSIONS)
        }));
        true
    }

    /// Adds light found on the way, limited once the path has been scattered.
    pub fn collect(&mut self, radiance: Vec3) {
        let mut l = self.weight * radiance;
        if self.matte > 0 {
            let brightness = l.max_component();
            if brightness > INDIRECT_LIMIT {
                l = l * (INDIRECT_LIMIT / brightness);
            }
        }
        self.light += l;
    }

    /// Says what the pixel shows, unless that is known.
    pub fn describe(&mut self, albedo: Vec3, normal: Vec3, position: Vec3) {
        if self.features.is_none() {
            let albedo = (self.weight * albedo).min(Vec3::splat(ALBEDO_LIMIT));
            self.features = Some(Features {
                albedo,
                normal,
                position,
            });
        }
    }
}
