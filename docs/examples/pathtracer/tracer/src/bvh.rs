//! The bounding volume hierarchy: finds what a ray meets without asking every object.
//!
//! Built once per frame from the scene's objects; the integrator calls [`Bvh::nearest`] and [`Bvh::blocked`]. It knows
//! boxes and shapes, never materials, except that a shadow ray may be told to ignore one object (the light it aims at).

use crate::ray::{Bounds, Ray};
use crate::shape::Shape;
use crate::vec3::{vec3, Vec3};

/// Objects in a leaf: below this a box test costs more than it saves.
const LEAF_SIZE: usize = 2;
/// Depth of the traversal stack. No side of a cut gets more than three quarters of the objects, so 20 000 of them, the
/// most a scene may have, make less than 35 levels.
const STACK_SIZE: usize = 48;

struct Node {
    bounds: Bounds,
    /// Leaf: first entry of `order`. Inner node: index of the right child; the left one follows the node itself.
    start: u32,
    /// Number of objects in a leaf; 0 for an inner node.
    count: u32,
    /// The axis along which an inner node's children lie.
    axis: usize,
}

/// A tree over a list of shapes.
pub struct Bvh {
    nodes: Vec<Node>,
    order: Vec<u32>,
}

fn component(v: Vec3, axis: usize) -> f32 {
    match axis {
        0 => v.x,
        1 => v.y,
        _ => v.z,
    }
}

impl Bvh {
    /// Builds the tree; the same shapes always give the same tree.
    pub fn build<'a>(shapes: impl Iterator<Item = &'a Shape>) -> Bvh {
        let boxes: Vec<Bounds> = shapes.map(Shape::bounds).collect();
        let mut bvh = Bvh {
            nodes: Vec::new(),
            order: (0..boxes.len() as u32).collect(),
        };
        if !boxes.is_empty() {
            let mut order = std::mem::take(&mut bvh.order);
            bvh.split(&boxes, &mut order, 0);
            bvh.order = order;
        }
        bvh
    }

    /// Adds the subtree over `order`, whose first entry is entry `offset` of the whole.
    fn split(&mut self, boxes: &[Bounds], order: &mut [u32], offset: usize) {
        let bounds = order
            .iter()
            .fold(Bounds::EMPTY, |b, &i| b.union(boxes[i as usize]));
        let me = self.nodes.len();
        self.nodes.push(Node {
            bounds,
            start: offset as u32,
            count: order.len() as u32,
            axis: 0,
        });
        if order.len() <= LEAF_SIZE {
            return;
        }
        let (axis, half) = best_split(boxes, order);
        sort(boxes, order, axis);
        let (left, right) = order.split_at_mut(half);
        self.split(boxes, left, offset);
        let right_index = self.nodes.len();
        self.split(boxes, right, offset + half);
        let node = &mut self.nodes[me];
        node.start = right_index as u32;
        node.count = 0;
        node.axis = axis;
    }

    /// The first object the ray meets before `limit`: its index and the distance.
    pub fn nearest<'a>(
        &self,
        ray: &Ray,
        limit: f32,
        shape: impl Fn(usize) -> &'a Shape,
    ) -> Option<(usize, f32)> {
        let mut found = None;
        self.walk(ray, limit, |object, limit| {
            let t = shape(object).hit(ray, limit)?;
            found = Some((object, t));
            Some(t)
        });
        found
    }

    /// Whether anything but `except` stands in the ray's way before `limit`.
    pub fn blocked<'a>(
        &self,
        ray: &Ray,
        limit: f32,
        except: usize,
        shape: impl Fn(usize) -> &'a Shape,
    ) -> bool {
        let mut blocked = false;
        self.walk(ray, limit, |object, limit| {
            if object != except && shape(object).hit(ray, limit).is_some() {
                blocked = true;
                // Nothing is nearer than 0, which ends the walk.
                return Some(-1.0);
            }
            None
        });
        blocked
    }

    /// Visits the objects in boxes along the ray, near ones first; `visit` may return a new, nearer limit.
    fn walk(&self, ray: &Ray, mut limit: f32, mut visit: impl FnMut(usize, f32) -> Option<f32>) {
        if self.nodes.is_empty() {
            return;
        }
        let d = ray.direction;
        let inverse = vec3(1.0 / d.x, 1.0 / d.y, 1.0 / d.z);
        let backwards = [d.x < 0.0, d.y < 0.0, d.z < 0.0];
        let mut stack = [0u32; STACK_SIZE];
        let mut depth = 1;
        while depth > 0 {
            depth -= 1;
            let index = stack[depth] as usize;
            let node = &self.nodes[index];
            if node.bounds.overlap(ray.origin, inverse, limit).is_none() {
                continue;
            }
            if node.count > 0 {
                for &object in &self.order[node.start as usize..(node.start + node.count) as usize]
                {
                    if let Some(t) = visit(object as usize, limit) {
                        limit = t;
                    }
                }
            } else {
                let (left, right) = (index as u32 + 1, node.start);
                let (near, far) = if backwards[node.axis] {
                    (right, left)
                } else {
                    (left, right)
                };
                stack[depth] = far;
                stack[depth + 1] = near;
                depth += 2;
            }
        }
    }
}

/// Sorts objects by their middle along an axis; equal ones by their number, so that the tree is always the same.
fn sort(boxes: &[Bounds], order: &mut [u32], axis: usize) {
    let middle = |i: u32| component(boxes[i as usize].low + boxes[i as usize].high, axis);
    order.sort_by(|&a, &b| middle(a).total_cmp(&middle(b)).then(a.cmp(&b)));
}

/// The axis and the place at which a cut costs a random ray least: each side's surface times its number of objects.
fn best_split(boxes: &[Bounds], order: &mut [u32]) -> (usize, usize) {
    let mut best = (f32::INFINITY, 0, order.len() / 2);
    let mut left_costs = vec![0.0; order.len()];
    // No side gets less than a quarter: that bounds the depth of the tree.
    let margin = (order.len() / 4).max(1);
    for axis in 0..3 {
        sort(boxes, order, axis);
        let mut side = Bounds::EMPTY;
        for (i, &id) in order.iter().enumerate() {
            left_costs[i] = side.half_area() * i as f32;
            side = side.union(boxes[id as usize]);
        }
        let mut side = Bounds::EMPTY;
        for (i, &id) in order.iter().enumerate().rev() {
            side = side.union(boxes[id as usize]);
            let cost = left_costs[i] + side.half_area() * (order.len() - i) as f32;
            if i >= margin && i <= order.len() - margin && cost < best.0 {
                best = (cost, axis, i);
            }
        }
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::hash;

    #[test]
    fn the_tree_finds_what_a_search_through_everything_finds() {
        let random = |i: u32| hash(i) as f32 / u32::MAX as f32;
        let point = |i: u32| vec3(random(i), random(i + 1), random(i + 2)) * 10.0;
        let shapes: Vec<Shape> = (0..200)
            .map(|i| Shape::Sphere {
                center: point(i * 5),
                radius: 0.1 + 0.4 * random(i * 5 + 3),
            })
            .collect();
        let bvh = Bvh::build(shapes.iter());
        let mut hits = 0;
        for i in 0..500 {
            let origin = point(10_000 + i * 7);
            let ray = Ray {
                origin,
                direction: (point(50_000 + i * 7) - origin).normalized(),
            };
            let got = bvh.nearest(&ray, 1e9, |s| &shapes[s]);
            let want = shapes
                .iter()
                .enumerate()
                .filter_map(|(s, shape)| shape.hit(&ray, 1e9).map(|t| (s, t)))
                .min_by(|a, b| a.1.total_cmp(&b.1));
            assert_eq!(got.map(|g| g.1), want.map(|w| w.1));
            assert_eq!(
                bvh.blocked(&ray, 1e9, usize::MAX, |s| &shapes[s]),
                want.is_some()
            );
            hits += usize::from(want.is_some());
        }
        assert!(hits > 100, "the test shoots at something: {hits}");
    }

    #[test]
    fn an_empty_tree_has_nothing_in_it() {
        let ray = Ray {
            origin: Vec3::ZERO,
            direction: vec3(0.0, 0.0, 1.0),
        };
        let none: Vec<Shape> = Vec::new();
        assert!(Bvh::build(none.iter())
            .nearest(&ray, 1e9, |s| &none[s])
            .is_none());
    }
}
