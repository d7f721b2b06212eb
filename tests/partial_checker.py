"""A Checker of which each test implements the calls that it expects."""

from services.contracts import candidate_pb2, checker_pb2, checker_pb2_grpc


class PartialChecker(checker_pb2_grpc.CheckerServicer):
    """Every call is an error."""

    async def Check(self, request: checker_pb2.CheckRequest, context: object) -> candidate_pb2.CheckReport:  # noqa: N802
        """No test should come here."""
        raise NotImplementedError("nothing in this test checks a program")

    async def Describe(  # noqa: N802
        self,
        request: checker_pb2.ScaleRequest,
        context: object,
    ) -> checker_pb2.ScaleDescription:
        """No test should come here."""
        raise NotImplementedError("nothing in this test asks for a scale")

    async def Profile(self, request: checker_pb2.ScaleRequest, context: object) -> checker_pb2.MachineProfile:  # noqa: N802
        """No test should come here."""
        raise NotImplementedError("nothing in this test asks for the machine")

    async def Trial(self, request: checker_pb2.TrialRequest, context: object) -> checker_pb2.TrialReport:  # noqa: N802
        """No test should come here."""
        raise NotImplementedError("nothing in this test tries a program")
