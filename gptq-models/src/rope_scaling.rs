//! How frequencies are stretched beyond the length a model was trained on.

use std::f64::consts::PI;

use crate::{Error, config::ConfigReader};

/// The scalings in use, with their numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    None,
    Linear {
        factor: f64,
    },
    Dynamic {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    Yarn {
        factor: f64,
        attention: f64,
        /// What latent attention multiplies scores by.
        scores: f64,
        fast: f64,
        slow: f64,
        original: f64,
        truncate: bool,
    },
    LongRope {
        short: Vec<f64>,
        long: Vec<f64>,
        attention: f64,
        original: usize,
    },
}

impl Scaling {
    /// Reads the nested object; a key of `outer` may override one of it.
    pub(crate) fn read(
        nested: &ConfigReader<'_>,
        outer: &ConfigReader<'_>,
        dim: usize,
        max_position_embeddings: usize,
    ) -> Result<Self, Error> {
        let kind = match nested.optional_text("rope_type")? {
            Some(kind) => kind,
            None => nested.optional_text("type")?.unwrap_or_else(|| "default".into()),
        };
        let stated = |key: &str| -> Result<Option<f64>, Error> {
            match nested.optional_number(key)? {
                Some(n) if n <= 0.0 => {
                    Err(nested.error(key, format!("is {n}, but must be above 0")))
                }
                stated => Ok(stated),
            }
        };
        let positive = |key: &str| -> Result<f64, Error> {
            let missing = || nested.error(key, format!("is missing, but {kind} RoPE needs it"));
            stated(key)?.ok_or_else(missing)
        };
        // A key at the top level overrides the nested one.
        let key = "original_max_position_embeddings";
        let original = outer.optional_count(key)?.or(nested.optional_count(key)?);
        let original = original.unwrap_or(max_position_embeddings);
        let stretch = max_position_embeddings as f64 / original as f64;
        Ok(match kind.as_str() {
            // Without images, the three position streams of mrope are one.
            "default" | "mrope" => Scaling::None,
            "linear" => Scaling::Linear { factor: positive("factor")? },
            "dynamic" => Scaling::Dynamic { factor: positive("factor")? },
            "llama3" => {
                let (low, high) = (positive("low_freq_factor")?, positive("high_freq_factor")?);
                if low >= high {
                    let message = format!("is {high}, but must be above low_freq_factor {low}");
                    return Err(nested.error("high_freq_factor", message));
                }
                Scaling::Llama3 {
                    factor: positive("factor")?,
                    low,
                    high,
                    original: original as f64,
                }
            }
            // An early name of longrope in some files.
            "yarn" if nested.get("short_factor").is_none() => {
                let factor = stated("factor")?.unwrap_or(stretch);
                Scaling::Yarn {
                    factor,
                    attention: yarn_attention(nested, factor)?,
                    scores: temperature(
                        factor,
                        nested.optional_number("mscale_all_dim")?.unwrap_or(0.0),
                    )
                    .powi(2),
                    fast: stated("beta_fast")?.unwrap_or(32.0),
                    slow: stated("beta_slow")?.unwrap_or(1.0),
                    original: original as f64,
                    truncate: nested.optional_flag("truncate")?.unwrap_or(true),
                }
            }
            "longrope" | "su" | "yarn" => {
                let factors = |key: &str| -> Result<Vec<f64>, Error> {
                    match nested.optional_numbers(key)? {
                        Some(list) if list.iter().any(|&f| f <= 0.0) => {
                            Err(nested.error(key, "has entries that are not above 0"))
                        }
                        Some(list) if list.len() == dim / 2 => Ok(list),
                        Some(list) => Err(nested.error(
                            key,
                            format!("has {} entries, but {} are needed", list.len(), dim / 2),
                        )),
                        None => Err(nested.error(key, "is missing, but longrope RoPE needs it")),
                    }
                };
                let factor = stated("factor")?.unwrap_or(stretch);
                let default = if factor <= 1.0 {
                    1.0
                } else {
                    (1.0 + factor.ln() / (original as f64).ln()).sqrt()
                };
                Scaling::LongRope {
                    short: factors("short_factor")?,
                    long: factors("long_factor")?,
                    attention: nested.optional_number("attention_factor")?.unwrap_or(default),
                    original,
                }
            }
            other => {
                return Err(nested.error(
                    "rope_type",
                    format!(
                        "is {other:?}, but default, linear, dynamic, llama3, yarn and longrope \
                         are known"
                    ),
                ));
            }
        })
    }
}

fn yarn_attention(nested: &ConfigReader<'_>, factor: f64) -> Result<f64, Error> {
    if let Some(given) = nested.optional_number("attention_factor")? {
        return Ok(given);
    }
    let pair = (nested.optional_number("mscale")?, nested.optional_number("mscale_all_dim")?);
    Ok(match pair {
        (Some(m), Some(all)) if m != 0.0 && all != 0.0 => {
            temperature(factor, m) / temperature(factor, all)
        }
        _ => temperature(factor, 1.0),
    })
}

/// What YaRN makes up with for the flatter scores of long texts.
fn temperature(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

/// Long wavelengths are stretched by `factor`, short ones kept, those between blended.
pub(crate) fn llama3(f: f32, factor: f64, low: f64, high: f64, original: f64) -> f32 {
    let wavelength = 2.0 * PI as f32 / f;
    if wavelength > (original / low) as f32 {
        return f / factor as f32;
    }
    if wavelength < (original / high) as f32 {
        return f;
    }
    let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
    (1.0 - smooth) * f / factor as f32 + smooth * f
}

/// From 0 (keep) to 1 (stretch) over the channel pairs between the two rotation counts.
pub(crate) fn yarn_ramp(
    dim: f64,
    theta: f64,
    rotations: [f64; 2],
    original: f64,
    truncate: bool,
) -> impl Fn(usize) -> f64 {
    let pair = |turns: f64| dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (pair(rotations[0]), pair(rotations[1]));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    move |i| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)
}
