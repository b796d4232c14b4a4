//! Elementary functions with one answer everywhere.
//!
//! A platform's `sin` or `pow` may differ in the last bit from another's, which a path tracer turns into visibly
//! different noise. These are built from exactly rounded operations only, so native and WASM frames are the same bytes.
//! Nothing else in this program may call `f32::sin`, `powf`, `exp`, `ln`, `mul_add` and the like.

/// The smaller of two numbers. Unlike `f32::min` its handling of NaN and of signed zeros is fixed by this comparison.
pub fn min(a: f32, b: f32) -> f32 {
    if a < b {
        a
    } else {
        b
    }
}

/// The larger of two numbers; see [`min`].
pub fn max(a: f32, b: f32) -> f32 {
    if a > b {
        a
    } else {
        b
    }
}

/// `v` limited to `0..=1`.
pub fn unit(v: f32) -> f32 {
    min(max(v, 0.0), 1.0)
}

/// Sine of an angle in turns (1 is a full circle). Error below 1e-6.
pub fn sin_turns(turns: f32) -> f32 {
    let r = turns - (turns + 0.5).floor();
    let folded = if r > 0.25 {
        0.5 - r
    } else if r < -0.25 {
        -0.5 - r
    } else {
        r
    };
    let a = folded * std::f32::consts::TAU;
    let q = a * a;
    // Taylor series to the 11th power; the next term is 6e-8 at a quarter turn.
    let series = 1.0 / 362_880.0 - q / 39_916_800.0;
    a * (1.0 - q * (1.0 / 6.0 - q * (1.0 / 120.0 - q * (1.0 / 5_040.0 - q * series))))
}

/// Cosine of an angle in turns.
pub fn cos_turns(turns: f32) -> f32 {
    sin_turns(turns + 0.25)
}

/// Two to the power of `x`, with `x` limited to the range of normal numbers.
pub fn exp2(x: f32) -> f32 {
    let x = min(max(x, -126.0), 126.0);
    let whole = (x + 0.5).floor();
    let f = (x - whole) * std::f32::consts::LN_2;
    // Taylor series of e^f for |f| <= 0.35; the next term is 1e-7.
    let tail = 1.0 / 24.0 + f * (1.0 / 120.0 + f / 720.0);
    let e = 1.0 + f * (1.0 + f * (0.5 + f * (1.0 / 6.0 + f * tail)));
    e * f32::from_bits(((whole as i32 + 127) as u32) << 23)
}

/// Base-2 logarithm of a positive normal number.
pub fn log2(x: f32) -> f32 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as i32 - 127;
    let mut m = f32::from_bits((bits & 0x007f_ffff) | 0x3f80_0000);
    if m > std::f32::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh s; |s| <= 0.172, so s^11 no longer counts.
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let ln = 2.0 * s * (1.0 + q * (1.0 / 3.0 + q * (0.2 + q * (1.0 / 7.0 + q / 9.0))));
    exponent as f32 + ln * std::f32::consts::LOG2_E
}

/// `x` to the power of `y`; 0 for `x <= 0`.
pub fn pow(x: f32, y: f32) -> f32 {
    if x <= f32::MIN_POSITIVE {
        0.0
    } else {
        exp2(log2(x) * y)
    }
}

/// e to the power of `x`.
pub fn exp(x: f32) -> f32 {
    exp2(x * std::f32::consts::LOG2_E)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigonometry_agrees_with_the_platform() {
        for i in -400..400 {
            let turns = i as f32 * 0.013;
            let radians = f64::from(turns) * std::f64::consts::TAU;
            assert!(
                (f64::from(sin_turns(turns)) - radians.sin()).abs() < 4e-6,
                "sin {turns}"
            );
            assert!(
                (f64::from(cos_turns(turns)) - radians.cos()).abs() < 4e-6,
                "cos {turns}"
            );
        }
        assert_eq!(sin_turns(0.0), 0.0);
    }

    #[test]
    fn powers_agree_with_the_platform() {
        for i in 1..400 {
            let x = i as f32 * 0.037;
            for y in [0.4166, 1.0, 2.4, 5.0] {
                let want = f64::from(x).powf(f64::from(y));
                assert!((f64::from(pow(x, y)) / want - 1.0).abs() < 4e-6, "{x}^{y}");
            }
        }
        assert_eq!(pow(0.0, 2.0), 0.0);
        assert!((exp(-3.0) - (-3.0f32).exp()).abs() < 1e-7);
    }
}
