# Run by the end-to-end suite with busybox sh: pipes, background jobs, traps; ends with code 4.
# Every tool is started by its path, so that each one is a fork and an exec.
b=$BUSYBOX
cd /tmp || exit 1
d=jobs.$$
$b mkdir $d && cd $d || exit 1

echo "pipe $($b seq 1 100 | $b sort -rn | $b head -n 3 | $b tr '\n' ' ' | $b sed 's/ $//')"

for i in 3 1 4 2; do
    ($b sleep 0.$i; echo $i >>out) &
done
wait
echo "jobs $($b tr '\n' ' ' <out | $b sed 's/ $//')"

$b sh -c 'exit 3'
echo "status $?"

sum=0
for i in $($b seq 1 100); do sum=$((sum + i)); done
echo "substitution $sum"

$b sh -c 'trap "echo trap caught; exit 0" TERM; kill -TERM $$; while :; do :; done'

n=$($b wc -l <<END
one
two
END
)
echo "here document $((n)) lines"

x=outer
(x=inner; cd /; export x)
[ $x = outer ] && [ "$($b basename "$PWD")" = $d ] && echo "subshell alone"

$b touch b a c
echo "files $($b find . -type f -name '?' | $b sort | $b tr -d './' | $b tr '\n' ' ' | $b sed 's/ $//')"

$b sleep 100 &
kill $!
wait $!
echo "killed $?"

cd .. && $b rm -r $d && echo done
exit 4
