"""Family descriptor of KernelWarehouse."""

from dynaconv.families.family import Coefficient, Family, PublishedKeys, Sharing
from dynaconv.families.kernel_warehouse.grouping import warehouse_names
from dynaconv.families.kernel_warehouse.layer import (
    KernelWarehouseConv1d,
    KernelWarehouseConv2d,
    KernelWarehouseConv3d,
    KernelWarehouseLinear,
)
from dynaconv.families.kernel_warehouse.networks import network_options
from dynaconv.families.kernel_warehouse.published import (
    published_cells,
    published_kernel_warehouse_layer,
    published_name_in,
)
from dynaconv.families.kernel_warehouse.sharing import fitting_errors, join_named

KERNEL_WAREHOUSE = Family(
    name="kernel_warehouse",
    title="KernelWarehouse",
    equation="each block of W(x) = Σₙ Aₙ(x) Eₙ, a mixture of the warehouse's cells E",
    arxiv="2406.07879",
    citation="""@inproceedings{li2024kernelwarehouse,
  title     = {KernelWarehouse: Rethinking the Design of Dynamic Convolution},
  author    = {Li, Chao and Yao, Anbang},
  booktitle = {International Conference on Machine Learning},
  year      = {2024},
  url       = {https://arxiv.org/abs/2406.07879}
}""",
    layer=KernelWarehouseConv2d,
    others=(KernelWarehouseConv1d, KernelWarehouseConv3d),
    linear=KernelWarehouseLinear,
    coefficients={"attention": Coefficient(symbol="A", role="matrix")},
    aliases=("kernelwarehouse",),
    sharing=Sharing(options=warehouse_names, join=join_named, errors=fitting_errors),
    network=network_options,
    published_layer=published_kernel_warehouse_layer,
    published_keys=PublishedKeys(
        kind="KernelWarehouse", marker=".attention.fc2.weight", name=published_name_in, shared=published_cells
    ),
)
