from pathlib import Path

from sextet_bench.speed_report import read_speeds

RESULTS = Path(__file__).parents[1] / "speed/results"


def test_every_published_speed_record_is_read():
    """A record in a form of its own once kept the pictures and the report from being made."""
    found = read_speeds(RESULTS)
    assert {item.method for item in found} == {path.stem for path in RESULTS.glob("*.json")}
    assert all(item.ratio is None or 0 < item.ratio[0] <= item.ratio[1] <= item.ratio[2] for item in found)
