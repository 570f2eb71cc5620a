# The tables of results that run.sh, stages.sh and merge.sh share. Every row begins with GPU, commit, date and stage.
# shellcheck shell=bash disable=SC2034,SC2154  # $out, $stage, $rows are those of the scripts that source this
# shellcheck disable=SC2054  # commas are in the heads
declare -A head=(
    [machine]=driver,memory_mb,gpus,cuda,processor,cores,program,pytorch,compute_sanitizer
    [stages]=result,seconds,detail
    [checks]=check,value,limit,result
    [kernels]=precision,batch,kernel,microseconds,megabytes,gigaoperations,fraction_of_copy_rate,fraction_of_gemm_rate
    [steps]=tuning,precision,batch,users_per_second,host_milliseconds,copy_tb_s,gemm_tflop_s,ratio_to_default
    [train]=program,precision,batch,epochs,users_per_second,users_per_second_median,training_seconds,all_seconds,ndcg@100
    [latency]=precision,threads,batch,calls,mean_ms,p50_ms,p90_ms,p95_ms,p99_ms,users_per_second,stream_ms,times_stream)

plain() { tr ',\n\r"' ';   ' <<<"$1" | sed 's/ *$//'; } # for a field of a table
# add TABLE FIELDS: a row of $stage in the folder $out, which is on the disk when this returns
add() {
    printf '%s,%s\n' "$VAECF_GPU_KEY,$stage" "$2" >>"$out/$1.csv" && sync "$out/$1.csv"
    printf '%s: %s\n' "$1" "$2"
    rows=$((rows + 1))
}
# whole TABLE FILE...: rows with as many fields as the head has, of files with a head
whole() {
    awk -F, -v head="gpu,commit,date,stage,${head[$1]}" 'BEGIN { n = split(head, _, ",") } NF == n && $0 != head && $1 != "gpu"' "${@:2}"
}
# outside COMMAND...: a program that is not of the pack, with the libraries of the machine
outside() {
    if [ -n "${VAECF_PACK:-}" ]; then LD_LIBRARY_PATH=$VAECF_OUTER_LIBRARIES "$@"; else "$@"; fi
}
