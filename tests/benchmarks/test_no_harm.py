"""The page of networks that auto may harm says how many seeds stand behind its sums."""

HEAD = "network,arm,seed,written,loss,accuracy,side"


def runs(name, count, gain):
    lines = []
    for seed in range(count):
        lines += [f"{name},default,{seed},0,1.0,0.5,32", f"{name},auto,{seed},1,{1.0 - gain},0.5,32"]
    return lines


def test_the_sum_says_which_networks_got_more_seeds(tmp_path):
    from pages import no_harm

    lines = [HEAD, *runs("suspect", 9, 0.0), *runs("better", 3, 0.5), *runs("waiting", 3, -0.03)]
    (tmp_path / "no-harm.csv").write_text("\n".join(lines) + "\n")
    summary, _, seeds, *_ = no_harm.page(tmp_path)["main"]
    assert "1 better beyond noise, 1 worse" in summary
    assert (
        "looked worse with three seeds gets nine (`--doubtful`), and 1 has them; one that looked better keeps" in seeds
    )
    assert seeds.endswith("Not yet run with nine: waiting.")
