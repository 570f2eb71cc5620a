# Cost by size, from growth.csv: gnuplot -e "csv='growth.csv'; out='growth.svg'" growth.gp
set terminal svg size 900,300 font "DejaVu Sans,11"
set output out
set datafile separator ","
set multiplot layout 1,3
set logscale xy
set grid lc rgb "#dddddd"
set key top left
set ylabel "µs a user"
set xtics (100, "1k" 1e3, "10k" 1e4, "100k" 1e5, "1M" 1e6)
series(name, x) = sprintf("< awk -F, '$1 == \"%s\" {print %s \",\" 1e6 / $5}' %s", name, x, csv)
linear(x, x0, y0) = y0 * x / x0

set xlabel "items in the catalogue"
stats series("items", "$3") using 1:2 nooutput
plot series("items", "$3") using 1:2 with linespoints pt 7 lc rgb "#1f6fb4" title "measured", \
    linear(x, STATS_max_x, STATS_max_y) lc rgb "#999999" dt 2 title "linear"
set xlabel "users in a batch"
plot [50:20000] [50:500] series("batch", "$4") using 1:2 with linespoints pt 7 lc rgb "#1f6fb4" notitle
set xlabel "users in the data set"
plot [5000:2e6] [10:100] series("users", "$2") using 1:2 with linespoints pt 7 lc rgb "#1f6fb4" notitle
