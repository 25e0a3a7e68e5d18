"""Keeps replicas of Ray Serve to this machine."""

__all__ = ["listen_here_alone"]

EVERYWHERE, HERE = "[::]", "127.0.0.1"


def listen_here_alone() -> None:
    """
    Has a replica listen to this machine alone; to be called in its constructor.

    Ray Serve starts a server in every replica, for replicas of other machines, which unpickles whatever it is sent, so
    that whoever reaches it can run anything. It binds it to all interfaces, and no setting says otherwise (2.60). By
    default nothing is sent to it; where Ray has it in another place, this raises, and no server starts.
    """
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace(EVERYWHERE, HERE))
