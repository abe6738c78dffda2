"""Scenario files: what is wrong is named before anything is built; what came out is judged without mercy."""

from __future__ import annotations

import json

import pytest
import yaml
from rich.console import Console

from sdwan.config.load import load as load_config
from sdwan.errors import LabError
from sdwan.lab import report
from sdwan.lab.configs import Settings, Uplink, plan_machines, plan_sites, write_sites
from sdwan.lab.demo import DemoResult
from sdwan.lab.demo_view import DemoView
from sdwan.lab.home import Home
from sdwan.lab.impairment import Impairment
from sdwan.lab.link import LinkSpec
from sdwan.lab.result import Result
from sdwan.lab.runner import shares_ppm
from sdwan.lab.scenario import load, measured, parse, ready
from sdwan.lab.targets import judge
from sdwan.lab.topology import Cable, Lab, Plan

SMALL = {"links": [{"rate": "10mbit"}], "duration": "2s"}


@pytest.mark.parametrize("name", ready())
def test_the_ready_scenarios_are_right_and_say_what_they_are(name):
    scenario = load(name)
    assert scenario.name == name
    assert scenario.description.endswith(".")
    assert len(scenario.plan.cables) >= 2


def test_impairments_of_one_direction_stand_over_those_of_both():
    link = {"rate": "10mbit", "delay": "5ms", "backward": {"delay": "50ms"}}
    spec = parse({**SMALL, "links": [link]}, "test").plan.cables[0].spec
    assert (spec.forward.delay_ns, spec.backward.delay_ns) == (5_000_000, 50_000_000)
    assert spec.backward.rate_bps == 10_000_000


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"duration": "2"}, "duration"),
        ({"links": []}, "links"),
        ({"links": [{"rate": "fast"}]}, "links.0.rate"),
        ({"links": [{"speed": "10mbit"}]}, "links.0.speed"),
        ({"links": [{"sites": ["edge", "mars"]}]}, "mars"),
        ({"steps": [{"at": "1s", "link": 3, "carrier": True}]}, "no link 3"),
        ({"steps": [{"at": "5s", "carrier": True}]}, "over by then"),
        ({"steps": [{"at": "1s"}]}, "exactly one"),
        ({"steps": [{"at": "1s", "carrier": True, "edge": "kill"}]}, "exactly one"),
        ({"steps": [{"at": "1s", "site": "mars", "edge": "kill"}]}, "mars"),
        ({"steps": [{"at": "1s", "set": {"loss": "much"}}]}, "steps.0.set.loss"),
        ({"steps": [{"at": "1s", "every": "0s", "carrier": True}]}, "every"),
        ({"duration": "7000s", "steps": [{"at": "1s", "every": "100ms", "edge": "kill"}]}, "would happen"),
        ({"loads": {"rival": 3}}, "no link 3"),
        ({"loads": {"stream": {"flows": 0}}}, "flows"),
        ({"expect": {"goodput": 5}}, "expect.goodput"),
        ({"expect": {"beauty": "9%"}}, "expect.beauty"),
        ({"expect": {"our_share": ["65%", "35%"]}}, "expect.our_share"),
        ({"expect": ["goodput"]}, "section"),
    ],
)
def test_a_mistake_is_refused_with_its_place(change, named):
    with pytest.raises(LabError, match=named):
        parse({**SMALL, **change}, "test")


@pytest.mark.parametrize("content", ["[", "just text", "\x00"])
def test_a_file_that_is_no_scenario_is_refused(tmp_path, content):
    file = tmp_path / "scenario.yaml"
    file.write_text(content)
    with pytest.raises(LabError):
        load(str(file))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(LabError, match="blackout"):
        load("no-such-scenario")


def test_every_measured_situation_expects_something_and_all_but_the_long_one_take_25_minutes():
    scenarios = [load(name) for name in measured()]
    assert all(scenario.expect for scenario in scenarios)
    assert not any(scenario.rates_known for scenario in scenarios), "bandwidth is to be found, not typed in"
    planned_s = sum(scenario.planned_ns() for scenario in scenarios if scenario.name != "soak") / 1e9
    assert planned_s < 25 * 60


def test_a_step_may_come_again_and_again():
    step = {"at": "500ms", "every": "600ms", "set": {"rate": "5mbit"}}
    again = parse({**SMALL, "steps": [{"at": "900ms", "carrier": False}, step]}, "test")
    moments = [
        (at_ns // 10**6, "rate" if happening.set else "carrier") for at_ns, happening in again.happenings()
    ]
    assert moments == [(500, "rate"), (900, "carrier"), (1100, "rate"), (1700, "rate")]


# Judging -------------------------------------------------------------------------------------------


def test_expectations_are_judged_by_what_was_measured():
    figures = {"longest_gap": 100.0, "probes_lost": 5.0, "goodput": 9.0, "udp_lost": 0.2}
    expect = parse(
        {
            **SMALL,
            "expect": {"longest_gap": "99ms", "probes_lost": 5, "goodput": "9mbit", "udp_lost": "0.1%"},
        },
        "test",
    ).expect
    verdicts = {verdict.metric: verdict.met for verdict in judge(figures, expect)}
    assert verdicts == {"longest_gap": False, "probes_lost": True, "goodput": True, "udp_lost": False}


@pytest.mark.parametrize(
    ("share", "met"), [(20.0, [False, True]), (50.0, [True, True]), (70.0, [True, False])]
)
def test_a_pair_is_bounded_on_both_sides(share, met):
    expect = parse({**SMALL, "expect": {"our_share": ["35%", "65%"]}}, "test").expect
    assert [verdict.met for verdict in judge({"our_share": share}, expect)] == met


def test_what_was_not_measured_is_not_met():
    expect = parse({**SMALL, "expect": {"probes_lost": 0}}, "test").expect
    assert [(verdict.met, verdict.measured) for verdict in judge({}, expect)] == [(False, "not measured")]


def test_what_is_not_expected_is_not_judged():
    assert judge({"longest_gap": 9e9}, ()) == []


def test_shares_are_of_what_was_sent_meanwhile():
    assert shares_ppm([100, 100, 7], [400, 200, 7], 2) == [750_000, 250_000]
    assert shares_ppm([5, 5], [5, 5], 2) == [0, 0]


def test_a_result_is_json_and_a_table():
    figures = {"longest_gap": 1.5, "probes_lost": 0.0, "emulator_cpu": 90.0}
    expect = parse({**SMALL, "expect": {"probes_lost": 0, "goodput": "1mbit"}}, "test").expect
    result = Result("x", False, figures, [figures], judge(figures, expect))
    assert json.loads(json.dumps(result.as_plain()))["checks"][0]["met"] is True
    assert result.rows()[1] == {
        "name": "x", "metric": "goodput", "target": "≥ 1 Mbit/s", "value": None, "unit": "Mbit/s",
        "met": False,
    }  # fmt: skip
    console = Console(record=True, width=120)
    console.print(report.scenario_view(result), report.summary_view([result]), report.missed_view([result]))
    shown = console.export_text()
    assert "1.5 ms" in shown
    assert "MISSED 1 of 2: x (goodput)" in shown
    assert "do not trust" in shown, "an emulator short of CPU makes any figure doubtful"


# Configurations ------------------------------------------------------------------------------------


def lab_of(tmp_path, *sites: str) -> Lab:
    wire = LinkSpec("bare", Impairment(rate_bps=20_000_000), Impairment(rate_bps=50_000_000))
    home = Home("plan")
    home.directory = tmp_path
    return Lab(home, Plan(sites, tuple(Cable(site, "hub", wire) for site in sites if site != "hub")))


def test_a_lab_gets_configurations_the_product_accepts(tmp_path):
    plans = plan_sites(lab_of(tmp_path, "edge", "van", "hub"))
    write_sites(plans, settings=Settings({"control": {"report_interval": "10ms"}}, strangers=3))
    edge, van, hub = (load_config(plan.config_file) for plan in plans)
    assert [peer.name for peer in edge.peers] == ["hub"]
    assert [peer.name for peer in hub.peers] == ["edge", "van", "stranger0", "stranger1", "stranger2"]
    assert edge.peers[0].endpoints[0].address == ("10.90.0.2", 4510)
    assert not hub.peers[0].endpoints
    assert (edge.links[0].rate_up_bps, edge.links[0].rate_down_bps) == (20_000_000, 50_000_000)
    assert (hub.links[0].rate_up_bps, hub.links[0].rate_down_bps) == (50_000_000, 20_000_000)
    assert van.control.report_interval_ns == 10_000_000
    assert edge.private_key.stat().st_mode & 0o777 == 0o600


def test_without_known_rates_none_are_written(tmp_path):
    plans = plan_sites(lab_of(tmp_path, "edge", "hub"), rates_known=False)
    write_sites(plans)
    assert "rate" not in yaml.safe_load(plans[0].config_file.read_text())["links"][0]


def test_machines_dial_every_address_of_the_hub_over_every_interface(tmp_path):
    plans = plan_machines(
        tmp_path, [("eth0", "198.51.100.7"), ("eth1", "2001:db8::7")], {"van": "wwan0+wlan0"}
    )
    write_sites(plans)
    van = load_config(plans[1].config_file)
    assert plans[1].uplinks[0] == Uplink("wwan0", "198.51.100.7")
    assert [link.name for link in van.links] == ["wwan0", "wlan0"]
    assert len(van.peers[0].endpoints) == 4
    assert str(van.runtime_dir) == "/run/sdwan"


def test_a_lab_without_its_hub_is_refused(tmp_path):
    with pytest.raises(LabError, match="berlin"):
        write_sites(plan_sites(lab_of(tmp_path, "edge", "hub")), hub="berlin")


# The demo without a terminal -----------------------------------------------------------------------


def test_the_demo_can_be_followed_line_by_line(capsys):
    path = {"link": "wan0", "state": "up", "share_ppm": 660_000, "sent_bps": 110e6, "rtt_ns": 21e6}
    with DemoView((Impairment(rate_bps=120_000_000),)) as view:
        view.phase("copying")
        view.show([path], 0.42)
        view.report(DemoResult(single_link_mbps=[114.0], bonded_mbps=100.0, shares=[1.0], checksum_ok=True))
    shown = capsys.readouterr().out
    assert "wan0 up 66 % 110.0 Mbit/s 21.0 ms loss -  file 42%" in shown
    assert "114.0 Mbit/s" in shown
