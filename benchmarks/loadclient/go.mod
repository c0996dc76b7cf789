module keyplane/loadclient

go 1.24
