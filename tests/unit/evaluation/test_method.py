from terradistill.evaluation.method import Method


def test_a_methods_name_says_what_it_is() -> None:
    assert Method.read("k-center") == Method("k-center", 1, False)
    assert Method.read("dpd+3x3+soft") == Method("dpd", 3, True)
    assert Method.read("a+2x3+soft") == Method("a+2x3", 1, True)
