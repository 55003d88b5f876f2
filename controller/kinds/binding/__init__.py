"""ModelBinding: which version of which model an agent uses. Declared: gateways carry it out."""

from controller.kind import Kind
from controller.kinds.binding.plan import plan, references
from controller.kinds.binding.spec import BindingSpec, BindingState

KIND: Kind[BindingSpec, BindingState] = Kind(
    name="ModelBinding",
    plural="bindings",
    spec=BindingSpec,
    state=BindingState,
    plan=plan,
    references=references,
    declared=True,
    summary="Which version of which model an agent uses.",
)
