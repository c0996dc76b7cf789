"""A real control plane on this machine, for the end-to-end tests and the demo.

Nothing here is shipped: it builds etcd, kube-apiserver, kube-controller-manager
and kubectl from Go modules (`binaries`), and runs them on loopback addresses
with their data in a directory of the caller's choice (`cluster`). It never
touches a cluster that it did not start itself.
"""
