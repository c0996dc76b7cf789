module keyplane.test/publishedclient

go 1.24.0

require (
	github.com/IBM/keyprotect-go-client v0.15.1
	github.com/google/uuid v1.6.0
)

require (
	github.com/hashicorp/go-cleanhttp v0.5.2 // indirect
	github.com/hashicorp/go-retryablehttp v0.7.7 // indirect
)
