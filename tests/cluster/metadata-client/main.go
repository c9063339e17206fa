// Asks for the blocks of snapshots as a backup program does, by the package that is made for those, and prints what it is
// told as JSON. scripts/kubernetes builds it, and cluster tests run it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/kubernetes-csi/external-snapshot-metadata/pkg/iterator"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	if err := ask(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ask() error {
	args := iterator.Args{Emitter: &iterator.JSONEmitter{Writer: os.Stdout}}
	kubeconfig := flag.String("kubeconfig", "", "how the API server is reached")
	flag.StringVar(&args.Namespace, "namespace", "", "where the snapshots are, and the service account")
	flag.StringVar(&args.SAName, "service-account", "", "whose token is sent")
	flag.StringVar(&args.SnapshotName, "snapshot", "", "the VolumeSnapshot that is asked about")
	flag.StringVar(&args.PrevSnapshotName, "base", "", "the VolumeSnapshot that it is compared with, if any")
	flag.Int64Var(&args.StartingOffset, "starting-offset", 0, "the byte to begin at")
	maxResults := flag.Int("max-results", 0, "most ranges in one message; 0 leaves it to the driver")
	flag.Parse()
	args.SANamespace, args.MaxResults = args.Namespace, int32(*maxResults)

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	if args.Clients, err = iterator.BuildClients(config); err != nil {
		return err
	}
	return iterator.GetSnapshotMetadata(context.Background(), args)
}
