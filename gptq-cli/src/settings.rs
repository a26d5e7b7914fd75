//! From what was typed to what it means: [`QuantConfig`] and its contradictions.

use gptq_core::{ActOrder, Bits, Damping, GridSearch, GroupSize, QuantConfig};

use crate::{args::SettingsArgs, failure::Failure};

/// Settings of the solver. Where nothing was said, activation order inside groups (GAR) is on if
/// there are groups and no other order was asked for.
pub(crate) fn quant_config(args: &SettingsArgs) -> Result<QuantConfig, Failure> {
    let usage = |e: gptq_core::Error| Failure::usage(e.to_string());
    let group_size = GroupSize::from_file(args.group_size).map_err(usage)?;
    let group_aware = if args.act_group_aware {
        if args.desc_act {
            return Err(Failure::usage(
                "--desc-act and --act-group-aware are two orders; choose one",
            ));
        }
        true
    } else {
        let other = args.no_act_group_aware || args.desc_act || args.static_groups;
        !other && group_size != GroupSize::PerChannel
    };
    if args.fresh_scales && group_size == GroupSize::PerChannel {
        return Err(Failure::usage(
            "--fresh-scales is about groups inside a row, but --group-size -1 is whole rows; drop one",
        ));
    }
    let config = QuantConfig {
        bits: Bits::try_from(args.bits).map_err(usage)?,
        group_size,
        sym: args.sym || !args.asym,
        act_order: match (args.desc_act, group_aware) {
            (true, _) => ActOrder::DescAct,
            (_, true) => ActOrder::GroupAware,
            _ => ActOrder::Natural,
        },
        static_groups: args.static_groups,
        damping: Damping { percent: args.damp_percent, auto_increment: args.damp_auto_increment },
        mse: args.mse.map(|norm| GridSearch {
            norm,
            grid: args.mse_grid,
            maxshrink: args.mse_maxshrink,
            both_zeros: !args.mse_one_zero,
        }),
        block_size: args.block_size,
        fresh_scales: args.fresh_scales,
        gptaq_alpha: args.gptaq.unwrap_or(0.0),
        foem_beta: args.foem.unwrap_or(0.0),
        ..QuantConfig::default()
    };
    config.validate().map_err(usage)?;
    Ok(config)
}
