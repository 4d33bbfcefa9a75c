"""Dynamic branches in graphs drawn by hand."""

from dynaconv.errors import ExportError
from dynaconv.export.int8_branch import GraphNode, dynamic_nodes, named_nodes
from tests.messages import refuses

DCD = [
    GraphNode("images", (), "input"),
    GraphNode("stem", ("images",), "product", labels=("stem.weight", "stem_out")),
    GraphNode("pool", ("stem",), "pool"),
    GraphNode("squeeze", ("pool",), "product"),
    GraphNode("scale", ("squeeze",), "product"),
    GraphNode("phi", ("squeeze",), "product"),
    GraphNode("p_phi", ("phi",), "product"),
    GraphNode("w0", ("stem",), "product"),
    GraphNode("lambda_w0", ("w0", "scale"), "product"),
    GraphNode("q", ("stem",), "product"),
    GraphNode("size", ("q",), "shape"),
    GraphNode("rows", ("q", "size")),
    GraphNode("residual", ("p_phi", "rows"), "product"),
    GraphNode("sum", ("lambda_w0", "residual")),
    GraphNode("last_pool", ("sum",), "pool"),
    GraphNode("classifier", ("last_pool",), "product"),
]


def test_a_dcd_layer_keeps_its_branch_and_both_products_and_neither_pool_nor_classifier() -> None:
    assert dynamic_nodes(DCD) == ["squeeze", "scale", "phi", "p_phi", "lambda_w0", "residual"]


def test_sizes_carry_neither_features_nor_context() -> None:
    shaped = [*DCD[:4], GraphNode("size", ("stem",), "shape"), GraphNode("reshape", ("squeeze", "size"))]
    gate = GraphNode("gate", ("stem", "reshape"), "product")
    assert dynamic_nodes([*shaped, gate]) == ["squeeze", "reshape", "gate"]


def test_where_branch_and_features_meet_in_a_concatenation_only_the_branch_counts() -> None:
    nodes = [*DCD[:4], GraphNode("join", ("stem", "squeeze")), GraphNode("conv", ("join",), "product")]
    assert dynamic_nodes(nodes) == ["squeeze"]


def test_rows_of_features_are_int8_and_the_sum_after_a_float_product_is_not() -> None:
    tail = [
        GraphNode("residual", ("rows", "phi"), "rows"),
        GraphNode("p", ("residual",), "product"),
        GraphNode("sum", ("lambda_w0", "p"), "sum"),
    ]
    assert dynamic_nodes([*DCD[:12], *tail]) == ["squeeze", "scale", "phi", "lambda_w0", "sum"]
    turned = tail[0]._replace(sources=("phi", "rows"))
    assert "residual" in dynamic_nodes([*DCD[:12], turned, *tail[1:]])


def test_a_static_network_has_none() -> None:
    assert dynamic_nodes([*DCD[:2], GraphNode("pool", ("stem",), "pool"), GraphNode("fc", ("pool",), "product")]) == []


def test_patterns_match_names_and_labels_in_the_order_of_the_graph() -> None:
    assert named_nodes(DCD, ["q", "stem.w*", "p*"]) == ["stem", "pool", "phi", "p_phi", "q"]
    assert named_nodes(DCD, []) == []
    with refuses(ExportError, "stem2"):
        named_nodes(DCD, ["stem2"])
