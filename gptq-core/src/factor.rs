//! [`InverseFactor`]: what the column loop reads, made from a [`Hessian`].

use std::ops::Range;

use ndarray::{Array1, Array2, ArrayView2, s};

use crate::{
    ActOrder, DampOutcome, Error, Hessian, Linalg, QuantConfig, Unsolved, check_finite, damping,
    gptaq, hessian::symmetric, order,
};

impl Hessian {
    /// Orders, damps and factors. The Hessian is consumed: what the solver reads is the factor.
    ///
    /// In the reference's order: dead columns (never-active inputs, zero diagonal) get a one, then
    /// the columns are permuted as `config.act_order` says, then damping is added and raised until
    /// Cholesky succeeds. With `gptaq_alpha`, P follows from U and the cross moment.
    ///
    /// # Errors
    /// [`Error::NoInput`], [`Error::NotFinite`], [`Error::Config`], or
    /// [`Error::NotPositiveDefinite`] when no damping below 1 is enough.
    ///
    /// Costs 2/3 n³ flops per damping tried, in place: the factor is where the Hessian was. P costs
    /// another 4/3 n³, and for the time it takes a copy of U.
    pub fn finish(self, config: &QuantConfig, linalg: &dyn Linalg) -> Result<InverseFactor, Error> {
        config.validate()?;
        let Hessian { sum, cross, count } = self;
        if count == 0 {
            return Err(Error::NoInput);
        }
        let factor = 2.0 / count as f32;
        let mut h = symmetric(sum, factor);
        check_finite("hessian", h.view())?;

        let dead: Vec<bool> = h.diag().iter().map(|&d| d == 0.0).collect();
        let dead_columns = || (0..dead.len()).filter(|&c| dead[c]);
        dead_columns().for_each(|c| h[(c, c)] = 1.0);
        let perm = order::permutation(h.diag(), config.act_order, config.group_size);
        let reorder = |a: &mut Array2<f32>| {
            if config.act_order != ActOrder::Natural {
                order::reorder(a, &perm);
            }
        };
        reorder(&mut h);

        let cross = match cross {
            _ if config.gptaq_alpha == 0.0 => None,
            None => return Err(gptaq::no_native_inputs(config.gptaq_alpha)),
            Some(mut d) => {
                check_finite("cross moment", d.view())?;
                d *= factor;
                dead_columns().for_each(|c| d.column_mut(c).fill(0.0));
                reorder(&mut d);
                Some(d)
            }
        };
        let (diagonal, damp) = match damping::damp_and_factor(&mut h, config.damping, linalg) {
            Ok(damped) => damped,
            Err(Error::NotPositiveDefinite { column, attempts, last_percent, .. }) => {
                let mut unsolved = unsolved(h, cross, &perm);
                dead_columns().for_each(|c| unsolved.hessian[(c, c)] = 0.0);
                let unsolved = Some(Box::new(unsolved));
                return Err(Error::NotPositiveDefinite {
                    column,
                    attempts,
                    last_percent,
                    unsolved,
                });
            }
            Err(other) => return Err(other),
        };
        let mut made =
            InverseFactor { u: h, diagonal, p: None, perm, dead, damp, made_for: *config };
        made.p = cross.map(|d| gptaq::shift(&d, &made.upper(), config.gptaq_alpha, linalg));
        Ok(made)
    }
}

/// Both matrices in the order of the layer again.
fn unsolved(mut hessian: Array2<f32>, mut cross: Option<Array2<f32>>, perm: &[usize]) -> Unsolved {
    let mut back = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(at, &column)| back[column] = at);
    for matrix in cross.iter_mut().chain([&mut hessian]) {
        order::reorder(matrix, &back);
    }
    Unsolved { hessian, cross }
}

/// The upper factor U of the damped, ordered H: `H⁻¹ = Uᵀ U`, and P if inputs are to be made up
/// for. One factor serves every linear that reads the same input.
#[derive(Clone, Debug)]
pub struct InverseFactor {
    /// in × in, in processing order. U on and above the diagonal; below it, where U is zero, H.
    pub(crate) u: Array2<f32>,
    /// The diagonal of the damped H, in processing order.
    diagonal: Array1<f32>,
    /// in × in, strictly upper triangular, in processing order; see [`gptaq`].
    pub(crate) p: Option<Array2<f32>>,
    /// Processing position → original column.
    pub(crate) perm: Vec<usize>,
    /// By original column: inputs that were zero on every token.
    pub(crate) dead: Vec<bool>,
    damp: DampOutcome,
    made_for: QuantConfig,
}

impl InverseFactor {
    /// Width of the layer.
    pub fn in_features(&self) -> usize {
        self.perm.len()
    }

    /// The damping that made the Hessian positive definite.
    pub fn damp(&self) -> DampOutcome {
        self.damp
    }

    /// Processing position → original column.
    pub fn perm(&self) -> &[usize] {
        &self.perm
    }

    /// A copy of U, in × in with zeros below the diagonal, rows and columns in processing order.
    pub fn upper(&self) -> Array2<f32> {
        let mut u = self.u.clone();
        for (i, mut row) in u.rows_mut().into_iter().enumerate() {
            row.slice_mut(s![..i]).fill(0.0);
        }
        u
    }

    /// The lower triangle of the damped H for these columns, in processing order, with half of its
    /// diagonal: a quadratic form of it is half that of H.
    pub(crate) fn half_of_h(&self, columns: Range<usize>) -> Array2<f32> {
        let mut half = self.u.slice(s![columns.clone(), columns.clone()]).to_owned();
        for (i, mut row) in half.rows_mut().into_iter().enumerate() {
            row[i] = self.diagonal[columns.start + i] / 2.0;
            row.slice_mut(s![i + 1..]).fill(0.0);
        }
        half
    }

    /// GPTAQ's `P = alpha · striu(D Uᵀ) · U`, in × in, rows and columns in processing order; `None`
    /// when `gptaq_alpha` is 0.
    pub fn shift(&self) -> Option<ArrayView2<'_, f32>> {
        self.p.as_ref().map(|p| p.view())
    }

    /// How many inputs were zero on every token; their weights become zero.
    pub fn dead_columns(&self) -> usize {
        self.dead.iter().filter(|&&dead| dead).count()
    }

    /// A factor is made for one setting; codes made with another would be silently worse.
    pub(crate) fn check(&self, config: &QuantConfig) -> Result<(), Error> {
        let made_for = &self.made_for;
        if config.gptaq_alpha == made_for.gptaq_alpha && same_order(config, made_for) {
            return Ok(());
        }
        let say = |c: &QuantConfig| {
            format!("{:?} with {:?} and gptaq_alpha {}", c.act_order, c.group_size, c.gptaq_alpha)
        };
        let message = format!(
            "the factor was made for {}, the layer asks for {}",
            say(made_for),
            say(config)
        );
        Err(Error::Config { message })
    }
}

/// Whether layers with these settings may share a factor: order, damping and alpha are in it.
pub(crate) fn shared(a: &QuantConfig, b: &QuantConfig) -> bool {
    a.damping == b.damping && a.gptaq_alpha == b.gptaq_alpha && same_order(a, b)
}

fn same_order(a: &QuantConfig, b: &QuantConfig) -> bool {
    a.act_order == b.act_order
        && (a.act_order != ActOrder::GroupAware || a.group_size == b.group_size)
}
